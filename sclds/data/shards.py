"""WebDataset tar shards as an index of samples that are read by offset.

A sample is the members of a tar that share a name up to the first dot of its last part: one picture or clip, and a
caption in `.txt` or under "caption" in `.json` (`.txt` first). Building the index reads the headers only.
"""

import glob
import importlib.resources
import json
import os
import tarfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sclds.config import DatasetConfig
from sclds.errors import DataError

Kind = Literal["image", "video"]
EMBEDDED = "embedded:"
EXTENSIONS: dict[Kind, frozenset[str]] = {
    "image": frozenset({"jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "jp2"}),
    "video": frozenset({"webm", "mp4", "mkv", "avi", "mov", "m4v"}),
}
_MEDIA, _TXT, _JSON = range(3)
_MISSING = (0, -1)
_BLOCK = 512  # bytes; a tar consists of whole blocks
_OPEN_FILES = 128
Places = list[tuple[int, int]]
"""Offset and size of the members of one sample, by role."""


class BadSampleError(Exception):
    """One sample cannot be used; the message says why, in a few words that end a sentence."""


@dataclass(frozen=True)
class Shard:
    """One tar with its n samples in the order of the file; columns, since a run may have millions of samples."""

    dataset: str
    kind: Kind
    path: Path
    name: str
    """Its path below the folder that all shards of the data set share, without suffix."""
    samples: list[str]
    """(n,) key of each sample."""
    members: NDArray[np.int64]
    """(n, 3, 2) offset and size in bytes of the media, `.txt` and `.json` members; size -1 where there is none."""

    def __len__(self) -> int:
        return len(self.samples)

    def sample_id(self, row: int) -> str:
        """Return the name of a sample, unique in the run: data set, shard and key."""
        return f"{self.dataset}/{self.name}/{self.samples[row]}"


@dataclass
class SampleIndex:
    """All samples of some data sets, numbered from 0 by data set, shard (by name) and place in the shard."""

    shards: list[Shard]
    starts: NDArray[np.int64] = field(init=False)
    """(shards + 1,) number of the first sample of each shard, and the count of all."""

    def __post_init__(self) -> None:
        self.starts = np.cumsum([0, *map(len, self.shards)], dtype=np.int64)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def locate(self, sample: int) -> tuple[Shard, int]:
        """Return the shard of a sample and its row there."""
        shard = int(np.searchsorted(self.starts, sample, side="right")) - 1
        return self.shards[shard], int(sample - self.starts[shard])

    def kind(self, sample: int) -> Kind:
        """Return what a sample shows."""
        return self.locate(sample)[0].kind

    def of_kind(self, kind: Kind) -> NDArray[np.int64]:
        """Return the numbers of all samples of a kind, ascending."""
        ranges = [
            np.arange(self.starts[i], self.starts[i + 1]) for i, shard in enumerate(self.shards) if shard.kind == kind
        ]
        return np.concatenate(ranges) if ranges else np.empty(0, np.int64)


def shard_files(config: DatasetConfig) -> list[Path]:
    """Return the tar files of a data set by name; an empty list if there are none."""
    if config.shards.startswith(EMBEDDED):
        folder = Path(str(importlib.resources.files("sclds.data") / "embedded" / config.shards[len(EMBEDDED) :]))
        return sorted(folder.glob("*.tar"))
    path = Path(config.shards).expanduser()
    if path.is_dir():
        return sorted(path.glob("*.tar"))
    return sorted(Path(name) for name in glob.glob(str(path)))


def shard_problems(config: DatasetConfig) -> list[str]:
    """Return a sentence for everything that makes a data set unusable, before any process starts.

    Of each shard only the headers up to the first sample are read.
    """
    files = shard_files(config)
    if not files:
        return [_nothing_found(config)]
    return [problem for path in files if (problem := _shard_problem(config, path)) is not None]


def open_index(configs: list[DatasetConfig]) -> SampleIndex:
    """Read the headers of all shards of some data sets.

    Raises:
        DataError: With a sentence for every shard that is missing, unreadable or without a sample.
    """
    problems = []
    shards = []
    for config in configs:
        files = shard_files(config)
        if not files:
            problems.append(_nothing_found(config))
        for path in files:
            try:
                samples = list(_samples(path, config.kind))
            except (OSError, tarfile.TarError) as fault:
                problems.append(_unreadable(config, path, fault))
                continue
            keys, members = [key for key, _ in samples], np.array([places for _, places in samples], np.int64)
            if len(keys) and (members[:, _MEDIA, 1] >= 0).any():
                shards.append(Shard(config.name, config.kind, path, _name(path, files), keys, members))
            else:
                problems.append(_hollow(config, path))
    if problems:
        raise DataError("\n".join(problems))
    return SampleIndex(shards)


def _nothing_found(config: DatasetConfig) -> str:
    place = f"data set '{config.name}' (shards: {config.shards})"
    if config.shards.startswith(EMBEDDED):
        folder = Path(str(importlib.resources.files("sclds.data") / "embedded"))
        known = sorted({path.parent.name for path in folder.glob("*/*.tar")})
        return f"{place}: there is no such embedded data; use one of: {', '.join(known) or 'none is installed'}"
    if not Path(config.shards).expanduser().exists() and not glob.has_magic(config.shards):
        return f"{place}: that path does not exist; give a folder of .tar shards, or a glob such as 'data/*.tar'"
    return f"{place}: no .tar file is there; give a folder of .tar shards, or a glob such as 'data/*.tar'"


def _unreadable(config: DatasetConfig, path: Path, fault: Exception) -> str:
    reason = "it is empty (0 bytes)" if path.is_file() and path.stat().st_size == 0 else str(fault)
    return f"shard {path} of data set '{config.name}' cannot be read: {reason}; fetch it again or remove it"


def _hollow(config: DatasetConfig, path: Path) -> str:
    expected = ", ".join(sorted(EXTENSIONS[config.kind]))
    return (
        f"shard {path} of data set '{config.name}' holds no sample of kind '{config.kind}' ({expected}); "
        f"remove it, or correct the data set's kind"
    )


def _shard_problem(config: DatasetConfig, path: Path) -> str | None:
    """Return what is wrong with a shard, judged by its size and its first sample, or None."""
    try:
        sound = any(members[_MEDIA] != _MISSING for _, members in _samples(path, config.kind))
        if path.stat().st_size % _BLOCK:
            raise tarfile.ReadError("it is truncated")
    except (OSError, tarfile.TarError) as fault:
        return _unreadable(config, path, fault)
    return None if sound else _hollow(config, path)


def _name(path: Path, files: list[Path]) -> str:
    shared = os.path.commonpath([file.parent for file in files])
    return path.relative_to(shared).with_suffix("").as_posix()


def _samples(path: Path, kind: Kind) -> Iterator[tuple[str, Places]]:
    """Yield key and members of the samples of a tar, each when its last member has been passed."""
    key: str | None = None
    places = [_MISSING] * 3
    with tarfile.open(path, "r:") as tar:
        for info in tar:
            if not info.isfile():
                continue
            folder, slash, name = info.name.rpartition("/")
            stem, _, extension = name.partition(".")
            found = folder + slash + stem
            if found != key:
                if key is not None:
                    yield key, places
                key, places = found, [_MISSING] * 3
            role = _role(extension.lower(), kind)
            if role is not None and places[role] == _MISSING:
                places[role] = (info.offset_data, info.size)
    if key is not None:
        yield key, places


def _role(extension: str, kind: Kind) -> int | None:
    if extension in EXTENSIONS[kind]:
        return _MEDIA
    return {"txt": _TXT, "json": _JSON}.get(extension)


class ShardReader:
    """Reads members by offset; keeps some files open. For one thread."""

    def __init__(self) -> None:
        self._files: OrderedDict[Path, int] = OrderedDict()

    def media(self, shard: Shard, row: int) -> bytes:
        """Return the encoded picture or clip of a sample.

        Raises:
            BadSampleError: It has none, or its bytes are not all there.
        """
        if shard.members[row, _MEDIA, 1] < 0:
            raise BadSampleError(f"it has no {'picture' if shard.kind == 'image' else 'clip'}")
        return self._read(shard, row, _MEDIA)

    def caption(self, shard: Shard, row: int) -> str:
        """Return the caption of a sample, with runs of white space made one space.

        Raises:
            BadSampleError: There is none, it is empty, or it is not text.
        """
        try:
            if shard.members[row, _TXT, 1] >= 0:
                text = self._read(shard, row, _TXT).decode("utf-8")
            elif shard.members[row, _JSON, 1] >= 0:
                text = _caption_of(json.loads(self._read(shard, row, _JSON)))
            else:
                raise BadSampleError("it has no caption (.txt, or .json with 'caption')")
        except (ValueError, RecursionError) as fault:  # no UTF-8, no JSON, a number too long, a list too deep
            raise BadSampleError(f"its caption cannot be decoded ({type(fault).__name__})") from fault
        text = " ".join(text.split())
        if not text:
            raise BadSampleError("its caption is empty")
        return text

    def close(self) -> None:
        """Close all files."""
        while self._files:
            os.close(self._files.popitem()[1])

    def _read(self, shard: Shard, row: int, role: int) -> bytes:
        offset, size = shard.members[row, role].tolist()
        handle = self._files.pop(shard.path, None)
        try:
            if handle is None:
                handle = os.open(shard.path, os.O_RDONLY)
            content = os.pread(handle, size, offset)
        except OSError as fault:
            raise BadSampleError(f"its shard cannot be read ({fault.strerror})") from fault
        self._files[shard.path] = handle
        if len(self._files) > _OPEN_FILES:
            os.close(self._files.popitem(last=False)[1])
        if len(content) != size:
            raise BadSampleError(f"its shard ends after {len(content)} of {size} bytes")
        return content


def _caption_of(record: object) -> str:
    caption = record.get("caption") if isinstance(record, dict) else None
    if not isinstance(caption, str):
        raise BadSampleError("its .json has no text under 'caption'")
    return caption
