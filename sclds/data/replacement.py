"""Which sample stands in for one that cannot be used: a pure function of seed and place, the same on any rank."""

import numpy as np
from numpy.typing import NDArray

from sclds.config.errors import DataError
from sclds.data.keys import generator
from sclds.data.order import Place
from sclds.data.storage.shards import SampleIndex

_FROM_ITS_DATA_SET = 8
"""Draws from the sample's own data set, which keep the mixture exact; a data set that fails so often is given up."""
_MOST = 100
"""Draws before the run ends."""


class Replacements:
    """Draws replacements of the same kind, so that a batch keeps its make-up.

    All samples of the pool are equally likely, and every place draws for itself, so that no neighbor of a bad sample
    is seen more often than the rest.

    Args:
        index: The samples.
        seed: The run's seed.
    """

    def __init__(self, index: SampleIndex, seed: int):
        self._index, self._seed = index, seed
        self._pools: dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

    def __call__(self, place: Place, attempt: int) -> int:
        """Return the number of the sample that replaces the one at a place.

        Args:
            place: What the order put there.
            attempt: How many samples were unusable there, from 1.

        Raises:
            DataError: Too many were.
        """
        shard, row = self._index.locate(place.sample)
        if attempt > _MOST:
            raise DataError(
                f"{shard.sample_id(row)} and {_MOST} samples of kind '{shard.kind}' drawn in its place are unusable; "
                f"look at the shards of data set '{shard.dataset}'"
            )
        rng = generator(self._seed, "replacement", place.epoch, place.repeat, shard.sample_id(row), attempt)
        first, ends = self._pool(shard.dataset if attempt <= _FROM_ITS_DATA_SET else None, shard.kind)
        at = int(rng.integers(ends[-1]))
        part = int(np.searchsorted(ends, at, side="right"))
        return int(first[part] + at - (ends[part - 1] if part else 0))

    def _pool(self, dataset: str | None, kind: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the first sample of each shard of a data set, or of a kind, and the running count of their samples."""
        key = f"{kind}/{dataset or ''}"
        if key not in self._pools:
            chosen = [
                i
                for i, shard in enumerate(self._index.shards)
                if shard.kind == kind and dataset in (None, shard.dataset)
            ]
            lengths = np.diff(self._index.starts)[chosen]
            self._pools[key] = (self._index.starts[chosen], np.cumsum(lengths))
        return self._pools[key]
