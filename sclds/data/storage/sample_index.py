"""All samples of a run by number, without an object for each: millions of them cost what their columns cost."""

import os
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sclds.data.storage.cache import ShardCache
from sclds.data.storage.files import StoredFile, is_url
from sclds.data.storage.index_file import ABSENT, Columns, index_command, key_at
from sclds.data.storage.left_out import LeftOut
from sclds.data.storage.tar_members import MEDIA, KeyEnds, Kind


@dataclass(frozen=True, eq=False)
class Shard:
    """One tar with its samples in the order of the file."""

    dataset: str
    kind: Kind
    file: StoredFile
    name: str
    """Its path below the folder that all shards of the data set share, without suffix."""
    columns: Columns
    """Of its folder's index, or of this shard alone."""
    first: int
    """Row of its first sample in the columns."""
    count: int
    """Its samples."""
    cache: ShardCache | None = None
    """Where it is fetched to, if it is not read in place."""
    key_ends: KeyEnds = "first_dot"
    """Where in a member's name its key ends."""
    left_out: tuple[LeftOut, ...] = ()
    """What it holds and no sample has."""

    def __len__(self) -> int:
        return self.count

    @property
    def path(self) -> str:
        """Path or URL."""
        return self.file.place

    def key(self, row: int) -> str:
        """Return the name of a sample in the tar, without extension."""
        return key_at(self.columns, self.first + row)

    def sample_id(self, row: int) -> str:
        """Return the name of a sample, unique in the run: data set, shard and key."""
        return f"{self.dataset}/{self.name}/{self.key(row)}"

    def member(self, row: int, role: int) -> tuple[int, int] | None:
        """Return offset and size in bytes of a member of a sample, or None if it has none."""
        size = int(self.columns["size"][self.first + row, role])
        return None if size == ABSENT else (int(self.columns["offset"][self.first + row, role]), size)

    def checksum(self, row: int, role: int) -> int | None:
        """Return the CRC-32 that a member of a sample had when it was indexed, or None if that was not noted."""
        noted = self.columns.get("crc32")
        if noted is None:
            return None  # the headers were read a moment ago
        if noted.ndim == 1:  # version 1
            return int(noted[self.first + row]) if role == MEDIA else None
        return int(noted[self.first + row, role])

    @property
    def index_command(self) -> str:
        """The command that reads it again for the index of its folder, to stand in a sentence."""
        return index_command(self.file.folder, self.kind, self.key_ends, verify=True)

    def content_bytes(self) -> int:
        """Return the bytes of all its images, videos and captions."""
        sizes = self.columns["size"][self.first : self.first + self.count]
        return int(sizes[sizes != ABSENT].sum(dtype=np.int64))

    def open(self) -> int:
        """Return a file descriptor for reading.

        Raises:
            CacheFullError: It is to be fetched and there is no room.
            OSError: It cannot be opened or fetched.
        """
        if not is_url(self.path):
            return os.open(self.path, os.O_RDONLY)
        assert self.cache is not None, "a shard that lies elsewhere is read out of a cache"
        return self.cache.open(self.file)


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
