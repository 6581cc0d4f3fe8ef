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

from sclds.config import DatasetConfig
from sclds.errors import DataError

Kind = Literal["image", "video"]
EMBEDDED = "embedded:"
EXTENSIONS: dict[Kind, frozenset[str]] = {
    "image": frozenset({"jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "jp2"}),
    "video": frozenset({"webm", "mp4", "mkv", "avi", "mov", "m4v"}),
}
_MEDIA = "media"
_OPEN_FILES = 128


class BadSampleError(Exception):
    """One sample cannot be used; the message says why, in a few words that end a sentence."""


@dataclass(frozen=True, slots=True)
class Member:
    """Where a member's bytes lie in its tar."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of a shard; a member that is missing is None."""

    key: str
    media: Member | None
    txt: Member | None
    json: Member | None


@dataclass(frozen=True)
class Shard:
    """One tar with its samples in the order of the file."""

    dataset: str
    kind: Kind
    path: Path
    samples: list[Sample]

    def sample_id(self, row: int) -> str:
        """Return the name of a sample, unique in the run: data set, shard and key."""
        return f"{self.dataset}/{self.path.stem}/{self.samples[row].key}"


@dataclass
class SampleIndex:
    """All samples of some data sets, numbered from 0 by data set, shard (by name) and place in the shard."""

    shards: list[Shard]
    starts: np.ndarray = field(init=False)
    """(shards + 1,) number of the first sample of each shard, and the count of all."""

    def __post_init__(self) -> None:
        self.starts = np.cumsum([0, *(len(shard.samples) for shard in self.shards)], dtype=np.int64)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def locate(self, sample: int) -> tuple[Shard, int]:
        """Return the shard of a sample and its row there."""
        shard = int(np.searchsorted(self.starts, sample, side="right")) - 1
        return self.shards[shard], int(sample - self.starts[shard])

    def kind(self, sample: int) -> Kind:
        """Return what a sample shows."""
        return self.locate(sample)[0].kind

    def of_kind(self, kind: Kind) -> np.ndarray:
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
            if any(sample.media for sample in samples):
                shards.append(Shard(config.name, config.kind, path, samples))
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
    """Return what is wrong with a shard, judged by its first sample, or None."""
    try:
        sound = any(sample.media for sample in _samples(path, config.kind))
    except (OSError, tarfile.TarError) as fault:
        return _unreadable(config, path, fault)
    return None if sound else _hollow(config, path)


def _samples(path: Path, kind: Kind) -> Iterator[Sample]:
    """Yield the samples of a tar as their last member has been passed."""
    key: str | None = None
    members: dict[str, Member] = {}
    with tarfile.open(path, "r:") as tar:
        for info in tar:
            if not info.isfile():
                continue
            folder, _, name = info.name.rpartition("/")
            stem, _, extension = name.partition(".")
            found = f"{folder}/{stem}" if folder else stem
            if found != key:
                if key is not None:
                    yield _sample(key, members)
                key, members = found, {}
            extension = extension.lower()
            role = _MEDIA if extension in EXTENSIONS[kind] else extension
            members.setdefault(role, Member(info.offset_data, info.size))
    if key is not None:
        yield _sample(key, members)


def _sample(key: str, members: dict[str, Member]) -> Sample:
    return Sample(key, members.get(_MEDIA), members.get("txt"), members.get("json"))


class ShardReader:
    """Reads members by offset; keeps some files open. For one thread."""

    def __init__(self) -> None:
        self._files: OrderedDict[Path, int] = OrderedDict()

    def media(self, shard: Shard, row: int) -> bytes:
        """Return the encoded picture or clip of a sample.

        Raises:
            BadSampleError: It has none, or its bytes are not all there.
        """
        member = shard.samples[row].media
        if member is None:
            raise BadSampleError(f"it has no {'picture' if shard.kind == 'image' else 'clip'}")
        return self._read(shard, member)

    def caption(self, shard: Shard, row: int) -> str:
        """Return the caption of a sample, with runs of white space made one space.

        Raises:
            BadSampleError: There is none, it is empty, or it is not text.
        """
        sample = shard.samples[row]
        try:
            if sample.txt is not None:
                text = self._read(shard, sample.txt).decode("utf-8")
            elif sample.json is not None:
                text = _caption_of(json.loads(self._read(shard, sample.json)))
            else:
                raise BadSampleError("it has no caption (.txt, or .json with 'caption')")
        except (UnicodeDecodeError, json.JSONDecodeError) as fault:
            raise BadSampleError(f"its caption cannot be decoded ({type(fault).__name__})") from fault
        text = " ".join(text.split())
        if not text:
            raise BadSampleError("its caption is empty")
        return text

    def close(self) -> None:
        """Close all files."""
        while self._files:
            os.close(self._files.popitem()[1])

    def _read(self, shard: Shard, member: Member) -> bytes:
        handle = self._files.pop(shard.path, None)
        try:
            if handle is None:
                handle = os.open(shard.path, os.O_RDONLY)
            content = os.pread(handle, member.size, member.offset)
        except OSError as fault:
            raise BadSampleError(f"its shard cannot be read ({fault.strerror})") from fault
        self._files[shard.path] = handle
        if len(self._files) > _OPEN_FILES:
            os.close(self._files.popitem(last=False)[1])
        if len(content) != member.size:
            raise BadSampleError(f"its shard ends after {len(content)} of {member.size} bytes")
        return content


def _caption_of(record: object) -> str:
    caption = record.get("caption") if isinstance(record, dict) else None
    if not isinstance(caption, str):
        raise BadSampleError("its .json has no text under 'caption'")
    return caption
