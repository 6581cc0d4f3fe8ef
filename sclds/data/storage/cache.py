"""A bounded folder of fetched shards, shared by all processes of a machine.

Every file is locked (flock) by those who read it, and a lock ends with its process, so nothing is left behind by a
crash. A file is fetched under the name `….part` by whoever holds that file's lock; the name also tells its final size,
so that files on their way count in full.
"""

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sclds.config import DataConfig
from sclds.data.storage.disk import disk_fault, spoils_writing
from sclds.data.storage.files import StoredFile, file_system, foreign_faults

_POLL_SECONDS = 0.05
_LOCK = "lock"


class CacheFullError(Exception):
    """Every file of the cache is being read, and there is no room for one more."""


@dataclass(frozen=True)
class ShardCache:
    """Fetches whole files and keeps the least recently used ones no longer than there is room.

    Args:
        folder: On a local disk; made when first needed.
        max_bytes: Most bytes of all files together, those on their way included.
    """

    folder: Path
    max_bytes: int

    def open(self, file: StoredFile) -> int:
        """Return a descriptor of the local copy; until it is closed the copy is not removed.

        Raises:
            CacheFullError: There is no room until others close what they read.
            MachineFaultError: The cache's disk cannot be used.
            OSError: The file cannot be fetched.
        """
        path = self._path(file)
        while True:
            with self._disk():
                self.folder.mkdir(parents=True, exist_ok=True)
                handle = _lock(path, fcntl.LOCK_SH)
            if handle is None:
                handle = self._fetch(file, path)
            if handle is not None:
                with self._disk():
                    os.utime(handle)  # recency is a file's time, which all processes see
                return handle

    def path(self, file: StoredFile) -> Path:
        """Return the path of the local copy, for files that are mapped at once: a mapping outlives removal."""
        os.close(self.open(file))
        return self._path(file)

    def _path(self, file: StoredFile) -> Path:
        name = f"{file.place}\n{file.stamp}".encode("utf-8", "surrogateescape")
        digest = hashlib.blake2b(name, digest_size=12).hexdigest()
        return self.folder / f"{digest}-{file.size}"

    def _fetch(self, file: StoredFile, path: Path) -> int | None:
        """Fetch a file; return its descriptor with a shared lock, or None if another process has fetched it."""
        part = path.with_name(f"{path.name}.part")
        with self._disk():
            handle = _lock(part, fcntl.LOCK_EX, create=True, until=path)
        if handle is None:
            return None
        try:
            with self._disk():
                self._make_room()
            self._get(file, part, handle)
            with self._disk():
                os.fsync(handle)
                with self._alone():  # or who adds up sizes meanwhile would count it twice, or not at all
                    part.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):  # of a disk that takes no more, the first fault is told
                part.unlink(missing_ok=True)
            os.close(handle)
            raise
        fcntl.flock(handle, fcntl.LOCK_SH)
        if _is_at(handle, path):
            return handle
        os.close(handle)  # removed in the instant between the two locks
        return None

    def _get(self, file: StoredFile, part: Path, handle: int) -> None:
        """Write what a file holds; a fault is the storage's, or that of the disk written to."""
        system, source = file_system(file.place)
        try:
            with foreign_faults():
                system.get_file(source, str(part))
        except OSError as fault:
            if spoils_writing(fault, handle):
                raise disk_fault(self.folder, fault) from fault
            raise
        if os.fstat(handle).st_size != file.size:
            raise OSError(f"{os.fstat(handle).st_size} of {file.size} bytes came")

    @contextmanager
    def _disk(self) -> Iterator[None]:
        """Tell faults of the cache's own disk from those of the storage: those are not the data's."""
        try:
            yield
        except OSError as fault:
            raise disk_fault(self.folder, fault) from fault

    def _make_room(self) -> None:
        """Remove files that nobody reads, the least recently used first, until all fit."""
        with self._alone():
            files = [(path, status) for path in self.folder.iterdir() if (status := _status(path)) is not None]
            sizes = {path: max(status.st_size, _promised(path)) for path, status in files if path.name != _LOCK}
            total = sum(sizes.values())
            for path, _ in sorted(files, key=lambda one: one[1].st_mtime_ns):
                if total <= self.max_bytes:
                    return
                if path in sizes and _remove_unread(path):
                    total -= sizes[path]
            if total > self.max_bytes:
                raise CacheFullError(str(self.folder))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with (self.folder / _LOCK).open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def cache_of(data: DataConfig) -> ShardCache:
    """Return the cache of a configuration."""
    return ShardCache(Path(data.cache_dir).expanduser(), data.cache_bytes)


def _lock(path: Path, kind: int, create: bool = False, until: Path | None = None) -> int | None:
    """Open and lock a file; None if it does not exist, or once `until` exists."""
    while until is None or not until.exists():
        try:
            handle = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o644)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            if _is_at(handle, path):
                if until is None or not until.exists():
                    return handle
                path.unlink()  # made here in the instant in which another process ended its own
        except BlockingIOError:
            time.sleep(_POLL_SECONDS)
        os.close(handle)
    return None


def _is_at(handle: int, path: Path) -> bool:
    """Return whether a path still names an open file: it may have been renamed or removed before it was locked."""
    status = _status(path)
    return status is not None and os.path.samestat(status, os.fstat(handle))


def _status(path: Path) -> os.stat_result | None:
    with contextlib.suppress(FileNotFoundError):
        return path.stat()
    return None


def _promised(path: Path) -> int:
    size = path.name.removesuffix(".part").rpartition("-")[2]
    return int(size) if size.isdigit() else 0


def _remove_unread(path: Path) -> bool:
    """Remove a file unless somebody has it locked; return whether it is gone."""
    try:
        handle = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True
