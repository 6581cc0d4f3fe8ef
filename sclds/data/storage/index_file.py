"""The index file: where the members of every sample of a folder of shards lie, as memory-mapped columns.

docs/data.md shows the format whole. Opening one reads its header only, so millions of samples open at once, and all
processes of a machine share the pages of the columns that they touch.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sclds.config.errors import DataError
from sclds.run.files import replacing

INDEX_NAME = "samples.index"
"""Name of the index of a folder, in that folder."""
ABSENT = 2**32 - 1
"""Size of a member that a sample does not have."""
Columns = Mapping[str, NDArray[Any]]

_MAGIC = b"SCLINDEX"
_VERSION = 1
_PAGE = 4096
_COLUMNS: dict[str, tuple[str, tuple[int, ...]]] = {
    "offset": ("<i8", (3,)),
    "size": ("<u4", (3,)),
    "key_end": ("<i8", ()),
    "width": ("<i4", ()),
    "height": ("<i4", ()),
    "frames": ("<i4", ()),
    "caption_length": ("<i4", ()),
    "crc32": ("<u4", ()),
}
"""Name → dtype and shape a sample; `keys` (bytes) comes on top."""


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


@dataclass(frozen=True)
class IndexFile:
    """All samples of a folder."""

    kind: str
    """`image` or `video`."""
    shards: list[ShardEntry]
    """By name."""
    columns: Columns

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


def write_index(path: Path, kind: str, parts: Sequence[tuple[ShardEntry, Columns]]) -> None:
    """Write an index; the file appears complete or not at all.

    Args:
        path: Where.
        kind: What a sample shows.
        parts: Shards by name, with the columns of each.
    """
    samples = sum(entry.samples for entry, _ in parts)
    placed: dict[str, dict[str, Any]] = {}
    start = 0
    for name, (dtype, shape) in {**_COLUMNS, "keys": ("|u1", ())}.items():
        count = sum(len(columns["keys"]) for _, columns in parts) if name == "keys" else samples
        placed[name] = {"dtype": dtype, "shape": [count, *shape], "start": start}
        start = _round_up(start + count * int(np.prod(shape, dtype=int)) * np.dtype(dtype).itemsize)
    shards = [asdict(entry) for entry, _ in parts]
    header = json.dumps({"version": _VERSION, "kind": kind, "columns": placed, "shards": shards}).encode()
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
        file.truncate(begin + start)


def read_index(path: Path, place: str | None = None) -> IndexFile:
    """Open an index.

    Args:
        path: The file.
        place: What to call it in errors, if it is a copy.

    Raises:
        DataError: It is not an index, is of another version, or is damaged.
        OSError: It cannot be read.
    """
    try:
        content = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)
        length = int.from_bytes(content[8:16].tobytes(), "little")
        if content[:8].tobytes() != _MAGIC or not 0 < length <= len(content) - 16:
            raise ValueError("it does not begin as one")
        header = json.loads(content[16 : 16 + length].tobytes())
        if header["version"] != _VERSION:
            raise ValueError(f"it has version {header['version']}, this program reads version {_VERSION}")
        begin = _round_up(16 + length)
        columns = {name: _column(content, begin, header["columns"][name]) for name in (*_COLUMNS, "keys")}
        shards = [ShardEntry(**entry) for entry in header["shards"]]
        if sum(entry.samples for entry in shards) != len(columns["offset"]):
            raise ValueError("its shards do not hold as many samples as its columns")
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        folder = (place or str(path)).removesuffix(f"/{INDEX_NAME}")
        reason = f"{type(fault).__name__}: {fault}" if isinstance(fault, KeyError) else str(fault)
        raise DataError(
            f"{place or path} is not an index that can be used ({reason}); write it again with "
            f"`sclds prepare index {folder}`"
        ) from fault
    return IndexFile(header["kind"], shards, columns)


def _column(content: NDArray[np.uint8], begin: int, placed: dict[str, Any]) -> NDArray[Any]:
    dtype, shape = np.dtype(placed["dtype"]), tuple(placed["shape"])
    start = begin + int(placed["start"])
    end = start + int(np.prod(shape, dtype=int)) * dtype.itemsize
    if end > len(content):
        raise ValueError("it is truncated")
    # a plain array over the mapping: numpy's memmap class makes every slice slower
    return np.asarray(content[start:end]).view(dtype).reshape(shape)


def _round_up(size: int) -> int:
    return -(-size // _PAGE) * _PAGE
