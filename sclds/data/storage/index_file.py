"""The index file: where the members of every sample of a folder of shards lie, as memory-mapped columns.

docs/data.md shows the format whole. Opening one reads its header, and its places once to see that all of them lie in
their shards; all processes of a machine share the pages of the columns that they touch.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sclds.config.errors import DataError
from sclds.data.storage.left_out import LeftOut
from sclds.run.files import replacing

INDEX_NAME = "samples.index"
"""Name of the index of a folder, in that folder."""
ABSENT = 2**32 - 1
"""Size of a member that a sample does not have."""
Columns = Mapping[str, NDArray[Any]]

_MAGIC = b"SCLINDEX"
_VERSION = 2
"""What is written. Version 1, which is read too, has a checksum of images and videos alone, and no `key_ends`."""
_PAGE = 4096
_COLUMNS: dict[str, tuple[str, tuple[int, ...]]] = {
    "offset": ("<i8", (3,)),
    "size": ("<u4", (3,)),
    "key_end": ("<i8", ()),
    "width": ("<i4", ()),
    "height": ("<i4", ()),
    "frames": ("<i4", ()),
    "caption_length": ("<i4", ()),
    "crc32": ("<u4", (3,)),
}
"""Name → dtype and shape a sample; `keys` (bytes) comes on top."""
_COLUMNS_OF = {1: {**_COLUMNS, "crc32": ("<u4", ())}, 2: _COLUMNS}
_TAR_BLOCK = 512
"""Bytes; members of a tar begin at multiples of it, behind a header of one."""
_CHECKED_AT_ONCE = 1 << 16
"""Rows whose places are checked at a time."""


@dataclass(frozen=True)
class ShardEntry:
    """One shard as it was when it was indexed."""

    name: str
    """File name in the folder."""
    size: int
    """Bytes."""
    stamp: str
    """Time of its last change, or what the storage gives in its place: a quick sign that it is still the same."""
    sha256: str
    """Of the whole file."""
    samples: int
    """Its samples, which follow those of the shard before."""
    left_out: tuple[LeftOut, ...] = ()
    """What it holds and no sample has."""


@dataclass(frozen=True)
class IndexFile:
    """All samples of a folder."""

    kind: str
    """`image` or `video`."""
    key_ends: str
    """`first_dot` or `last_dot`: where in a member's name its key ends."""
    shards: list[ShardEntry]
    """By name."""
    columns: Columns
    version: int = _VERSION
    """Of the file's format."""

    @property
    def is_current(self) -> bool:
        """Return whether it is of the version that is written."""
        return self.version == _VERSION

    def rows(self, first: int, count: int) -> Columns:
        """Return the columns of some neighboring samples, as one shard has them in an index of its own."""
        part = {name: self.columns[name][first : first + count] for name in _COLUMNS}
        start = int(self.columns["key_end"][first - 1]) if first else 0
        end = int(part["key_end"][-1]) if count else start
        return {**part, "key_end": part["key_end"] - start, "keys": self.columns["keys"][start:end]}


def columns_of_keys(keys: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return keys as one run of bytes and the end of each; names that are not UTF-8 survive."""
    encoded = [key.encode("utf-8", "surrogateescape") for key in keys]
    ends = np.cumsum([len(key) for key in encoded], dtype=np.int64).astype("<i8")
    return {"key_end": ends, "keys": np.frombuffer(b"".join(encoded), np.uint8)}


def key_at(columns: Columns, row: int) -> str:
    """Return the key of a sample."""
    ends = columns["key_end"]
    start = int(ends[row - 1]) if row else 0
    return columns["keys"][start : int(ends[row])].tobytes().decode("utf-8", "surrogateescape")


def index_command(folder: str, kind: str = "image", key_ends: str = "first_dot", verify: bool = False) -> str:
    """Return the command that writes an index, in backquotes, to stand in a sentence."""
    options = f" --kind {kind}" * (kind != "image") + f" --key-ends {key_ends}" * (key_ends != "first_dot")
    return f"`sclds prepare index {folder}{options}{' --verify' * verify}`"


def write_index(path: Path, kind: str, key_ends: str, parts: Sequence[tuple[ShardEntry, Columns]]) -> None:
    """Write an index; the file appears complete or not at all.

    Args:
        path: Where.
        kind: What a sample shows.
        key_ends: Where in a member's name its key ends.
        parts: Shards by name, with the columns of each.
    """
    placed, total = _layout(
        _VERSION, sum(entry.samples for entry, _ in parts), sum(len(columns["keys"]) for _, columns in parts)
    )
    fields = {"version": _VERSION, "kind": kind, "key_ends": key_ends, "columns": placed}
    header = json.dumps(fields | {"shards": [asdict(entry) for entry, _ in parts]}).encode()
    with replacing(path) as file:
        file.write(_MAGIC + len(header).to_bytes(8, "little") + header)
        begin = _round_up(file.tell())
        for name, column in placed.items():
            file.seek(begin + column["start"])
            passed = 0
            for _, columns in parts:
                values = columns[name] + passed if name == "key_end" else columns[name]
                file.write(np.ascontiguousarray(values, column["dtype"]).data)
                passed += len(columns["keys"])
        file.truncate(begin + total)


def _layout(version: int, samples: int, key_bytes: int) -> tuple[dict[str, dict[str, Any]], int]:
    """Return dtype, shape and start of every column as the header has them, and the bytes of all."""
    placed: dict[str, dict[str, Any]] = {}
    start = 0
    for name, (dtype, shape) in {**_COLUMNS_OF[version], "keys": ("|u1", ())}.items():
        count = key_bytes if name == "keys" else samples
        placed[name] = {"dtype": dtype, "shape": [count, *shape], "start": start}
        start = _round_up(start + count * int(np.prod(shape, dtype=int)) * np.dtype(dtype).itemsize)
    return placed, start


def read_index(path: Path, place: str | None = None) -> IndexFile:
    """Open an index.

    Args:
        path: The file.
        place: What to call it in errors, if it is a copy.

    Raises:
        DataError: It is not an index, is of another version, is damaged, or places a sample outside its shard.
        OSError: It cannot be read.
    """
    try:
        content = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)
        length = int.from_bytes(content[8:16].tobytes(), "little")
        if content[:8].tobytes() != _MAGIC or not 0 < length <= len(content) - 16:
            raise ValueError("it does not begin as one")
        header = json.loads(content[16 : 16 + length].tobytes())
        version = header["version"]
        if version not in _COLUMNS_OF:
            raise ValueError(f"it has version {version}, this program reads versions 1 to {_VERSION}")
        shards = [_entry(fields) for fields in header["shards"]]
        columns = _columns(content, _round_up(16 + length), header, sum(entry.samples for entry in shards))
        _check_places(path, _round_up(16 + length), header["columns"], shards)
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        folder = (place or str(path)).removesuffix(f"/{INDEX_NAME}")
        reason = f"{type(fault).__name__}: {fault}" if isinstance(fault, KeyError) else str(fault)
        raise DataError(
            f"{place or path} is not an index that can be used ({reason}); write it again with {index_command(folder)}"
        ) from fault
    return IndexFile(header["kind"], header.get("key_ends", "first_dot"), shards, columns, version)


def _entry(fields: dict[str, Any]) -> ShardEntry:
    """Return the entry of a shard."""
    left_out = tuple(LeftOut(**{**one, "names": tuple(one["names"])}) for one in fields.get("left_out", ()))
    entry = ShardEntry(**{**fields, "left_out": left_out})
    if not all(isinstance(number, int) and number >= 0 for number in (entry.size, entry.samples)):
        raise ValueError(f"{entry.name} has {entry.size} bytes and {entry.samples} samples in it")
    return entry


def _columns(content: NDArray[np.uint8], begin: int, header: dict[str, Any], samples: int) -> Columns:
    """Return the columns, which must lie as `_layout` has them: shifted or of another type they would read as well."""
    found = {}
    placed = header["columns"]
    if placed["offset"]["shape"][0] != samples:
        raise ValueError("its shards do not hold as many samples as its columns")
    expected, total = _layout(header["version"], samples, int(placed["keys"]["shape"][0]))
    for name, column in expected.items():
        if placed[name] != column:
            raise ValueError(f"column '{name}' is expected as {column}, and is {placed[name]}")
        dtype, shape, start = np.dtype(column["dtype"]), tuple(column["shape"]), begin + column["start"]
        end = start + int(np.prod(shape, dtype=int)) * dtype.itemsize
        if begin + total > len(content):
            raise ValueError("it is truncated")
        # a plain array over the mapping: numpy's memmap class makes every slice slower
        found[name] = np.asarray(content[start:end]).view(dtype).reshape(shape)
    return found


def _check_places(path: Path, begin: int, placed: dict[str, Any], shards: list[ShardEntry]) -> None:
    """Raise ValueError unless every member lies in its shard, at a block of the tar, and the keys follow one another.

    The columns are read and not mapped here, piece by piece, so that this costs no memory.
    """
    ends, sizes = np.cumsum([one.samples for one in shards]), np.array([one.size for one in shards], np.int64)
    samples, key_end = int(ends[-1]) if len(ends) else 0, 0
    for first in range(0, samples, _CHECKED_AT_ONCE):
        count = min(_CHECKED_AT_ONCE, samples - first)

        def piece(name: str, width: int, first: int = first, count: int = count) -> NDArray[Any]:
            dtype = np.dtype(placed[name]["dtype"])
            start = begin + placed[name]["start"] + first * width * dtype.itemsize
            return np.fromfile(path, dtype, count * width, offset=start).reshape(count, width)

        offset, size, key_ends = piece("offset", 3), piece("size", 3), piece("key_end", 1)[:, 0]
        shard = np.repeat(np.arange(len(sizes)), np.diff(np.clip(ends, first, first + count), prepend=first))
        # no sum that could overflow: what is left of the shard must hold the member
        wrong = sizes[shard][:, None] - offset < size
        wrong |= (offset < _TAR_BLOCK) | (offset & (_TAR_BLOCK - 1)).astype(bool)
        wrong &= size != ABSENT
        if wrong.any():
            row, role = np.argwhere(wrong)[0]
            raise ValueError(
                f"sample {first + row} would have a member at byte {offset[row, role]} of {shards[shard[row]].name}, "
                f"{size[row, role]} bytes long, and the shard has {sizes[shard[row]]} bytes, in blocks of {_TAR_BLOCK}"
            )
        if key_ends[0] < key_end or (np.diff(key_ends) < 0).any():
            raise ValueError("its keys do not follow one another")
        key_end = int(key_ends[-1])
    if key_end != placed["keys"]["shape"][0]:
        raise ValueError("its keys do not end where its samples do")


def _round_up(size: int) -> int:
    return -(-size // _PAGE) * _PAGE
