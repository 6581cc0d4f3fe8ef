"""Where shards lie: plain paths are read in place, URLs (s3, gs, hf, file, … by fsspec) are listed here and cached."""

import glob
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sclds.config.errors import DataError

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_STAMPS = ("ETag", "etag", "md5Hash", "blob_id", "LastModified", "updated", "mtime", "created")
"""What file systems tell of a file that changes whenever its content does; the first that is there counts."""
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub", "abfs": "adlfs"}

_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tar.lz4")
"""Endings of tars that have to be decompressed first."""


@dataclass(frozen=True)
class StoredFile:
    """A file as its storage tells of it."""

    place: str
    """Path or URL."""
    size: int
    """Bytes."""
    stamp: str
    """KIND:VALUE, which changes when the file does; copies keep it only within one kind of storage."""

    @property
    def folder(self) -> str:
        """Path or URL of the folder that holds it."""
        head, slash, _ = self.place.rpartition("/")
        return head or slash or "."

    @property
    def name(self) -> str:
        """Name in that folder, whatever this machine's locale."""
        return as_text(self.place.rpartition("/")[2])

    def looks_like(self, size: int, stamp: str) -> bool:
        """Return whether it may be what was seen before; of a copy on another kind of storage the size must tell."""
        kinds = (self.stamp.partition(":")[0], stamp.partition(":")[0])
        return self.size == size and (self.stamp == stamp or kinds[0] != kinds[1])


def is_url(place: str) -> bool:
    """Return whether a place is a URL, which is fetched into the cache, and not a path."""
    return "://" in place


def as_text(path: str) -> str:
    """Return a path of this machine as it reads in UTF-8, so that names are the same whatever the locale."""
    return os.fsencode(path).decode("utf-8", "surrogateescape")


def as_path(text: str) -> str:
    """Return a path that was written in UTF-8, such as a setting, as this machine's locale has it."""
    return os.fsdecode(text.encode("utf-8", "surrogateescape"))


def find_shards(pattern: str) -> tuple[list[StoredFile], list[str]]:
    """Find the `.tar` files of a folder, a glob, a range such as `{00000..00099}`, or a single one.

    Returns:
        The files by name, and the members of a range that are not there.

    Raises:
        DataError: The URL's file system is not installed.
        OSError: The storage cannot be reached.
    """
    found: dict[str, StoredFile] = {}
    missing = []
    spelled = list(_spelled_out(pattern))
    for one in spelled:
        files = _find_remote(one) if is_url(one) else _find_local(one)
        if not files and len(spelled) > 1:
            missing.append(one)
        found |= {file.place: file for file in files}
    return [found[place] for place in sorted(found)], missing


def packed_shards(pattern: str) -> list[str]:
    """Return the names of compressed tars in the folder that a pattern names, which are never read."""
    if is_url(pattern) or not is_folder(pattern):
        return []
    names = sorted(as_text(name) for name in os.listdir(os.path.expanduser(as_path(pattern))))
    return [name for name in names if name.lower().endswith(_PACKED) and not name.startswith(".")]


def is_folder(pattern: str) -> bool:
    """Return whether a pattern names a folder, all of whose shards are meant."""
    if not is_url(pattern):
        return os.path.isdir(os.path.expanduser(as_path(pattern)))
    system, path = file_system(pattern)
    with foreign_faults():
        return bool(system.isdir(path))


def stored(place: str) -> StoredFile | None:
    """Return what is known of a file, or None if it does not exist."""
    try:
        if not is_url(place):
            return _local(place, os.stat(place))
        system, path = file_system(place)
        with foreign_faults():
            return _remote(system, system.info(path))
    except FileNotFoundError:
        return None


def open_stream(place: str) -> IO[bytes]:
    """Open a file for reading from its beginning to its end."""
    if not is_url(place):
        return open(place, "rb")
    system, path = file_system(place)
    with foreign_faults():
        stream: IO[bytes] = system.open(path, "rb")
        return stream


def put(source: Path, place: str) -> None:
    """Copy a local file to a URL; it appears there complete or not at all."""
    system, path = file_system(place)
    with foreign_faults():
        system.put_file(str(source), f"{path}.part")
        system.mv(f"{path}.part", path)


def file_system(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the path there.

    Raises:
        DataError: No such file system is known or installed.
    """
    import fsspec  # takes a while, and most runs read plain paths

    protocol = url.partition("://")[0]
    try:
        with foreign_faults(ImportError, ValueError):
            system, path = fsspec.core.url_to_fs(url)
    except ImportError as fault:
        package = _PACKAGES.get(protocol)
        remedy = f"`pip install {package}`" if package else str(fault)
        raise DataError(f"{url}: what reads {protocol}:// is not installed; {remedy}") from fault
    except ValueError as fault:
        raise DataError(f"{url}: {fault}; use a path, or a URL such as s3://, gs:// or hf://") from fault
    return system, str(path)


@contextmanager
def foreign_faults(*passed: type[Exception]) -> Iterator[None]:
    """Turn what file systems of other packages raise into OSError; their own classes share no base."""
    try:
        yield
    except Exception as fault:
        if isinstance(fault, (OSError, *passed)):
            raise
        raise OSError(f"{type(fault).__name__}: {fault}") from fault


def _spelled_out(pattern: str) -> Iterator[str]:
    """Yield a pattern with its first range replaced by each number, and so on."""
    match = _RANGE.search(pattern)
    if match is None:
        yield pattern
        return
    first, last = match.groups()
    for number in range(int(first), int(last) + 1):
        yield from _spelled_out(f"{pattern[: match.start()]}{number:0{len(first)}d}{pattern[match.end() :]}")


def _find_local(pattern: str) -> list[StoredFile]:
    pattern = os.path.expanduser(as_path(pattern))
    if os.path.isdir(pattern):
        with os.scandir(pattern) as entries:
            # a dangling link has no size to tell, and is as good as not there
            chosen = [entry for entry in entries if _is_shard(entry.name) and os.path.exists(entry.path)]
            return [_local(entry.path, entry.stat()) for entry in chosen]
    return [_local(place, os.stat(place)) for place in glob.glob(pattern) if os.path.isfile(place)]


def _find_remote(pattern: str) -> list[StoredFile]:
    system, path = file_system(pattern)
    try:
        with foreign_faults():
            if glob.has_magic(path):
                found = list(system.glob(path, detail=True).values())
            elif system.isdir(path):
                found = [info for info in system.ls(path, detail=True) if _is_shard(info["name"])]
            else:
                found = [system.info(path)]
    except FileNotFoundError:
        return []
    return [_remote(system, info) for info in found if info["type"] == "file"]


def _is_shard(place: str) -> bool:
    name = place.rpartition("/")[2]
    return name.endswith(".tar") and not name.startswith(".")


def _local(place: str, status: os.stat_result) -> StoredFile:
    return StoredFile(os.path.normpath(place), status.st_size, f"mtime:{int(status.st_mtime)}")


def _remote(system: Any, info: dict[str, Any]) -> StoredFile:
    key = next((key for key in _STAMPS if info.get(key)), "none")
    value = info.get(key)
    stamp = f"{key}:{int(value) if isinstance(value, float) else value}"
    return StoredFile(system.unstrip_protocol(info["name"]), int(info["size"]), stamp)
