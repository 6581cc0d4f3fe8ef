"""Which sample stands where: pure functions of seed, epoch and step, the same for every number of processes.

Samples are shuffled in two stages: shards are permuted, then the samples of `shuffle_block` neighbouring shards are
permuted together. A larger block mixes better; a smaller one reads fewer files at a time.
"""

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sclds.config import DatasetConfig
from sclds.data.keys import generator
from sclds.data.shards import SampleIndex

_EPOCHS_KEPT = 2


@dataclass(frozen=True)
class Place:
    """One place of the global batch: which sample, in which epoch, and for the how-many-th time in it."""

    epoch: int
    repeat: int
    sample: int


class Order:
    """The infinite stream of samples, crossing epochs, with random access by step.

    Args:
        index: All samples of the mixture.
        weights: How often each data set is seen per epoch, by name.
        seed: The run's seed.
        global_size: Samples of one optimiser step.
        shuffle_block: Shards shuffled together.
    """

    def __init__(
        self, index: SampleIndex, weights: dict[str, float], seed: int, global_size: int, shuffle_block: int
    ) -> None:
        self._index, self._weights, self._seed = index, weights, seed
        self._global_size, self._block = global_size, shuffle_block
        self._members = {
            name: np.concatenate(
                [
                    np.arange(index.starts[i], index.starts[i + 1])
                    for i, shard in enumerate(index.shards)
                    if shard.dataset == name
                ]
            )
            for name in dict.fromkeys(shard.dataset for shard in index.shards)
        }
        self._cache: OrderedDict[int, NDArray[np.int64]] = OrderedDict()
        self.epoch_size = sum(whole * len(self._members[d]) + part for d, (whole, part) in self._repeats().items())

    def _repeats(self) -> dict[str, tuple[int, int]]:
        """Return for each data set how often all of it is seen, and how many samples once more; at least one sample."""
        counts = {}
        for name, members in self._members.items():
            whole = int(self._weights[name])
            part = round((self._weights[name] - whole) * len(members))
            counts[name] = (whole, part if whole else max(1, part))
        return counts

    def epoch(self, epoch: int) -> NDArray[np.int64]:
        """Return the samples of an epoch in the order in which they are seen.

        Returns:
            (epoch_size,) sample + samples · repeat, where repeat counts how often the epoch has had the sample.
        """
        if epoch not in self._cache:
            self._cache[epoch] = self._shuffled(epoch)
            while len(self._cache) > _EPOCHS_KEPT:
                self._cache.popitem(last=False)
        return self._cache[epoch]

    def _shuffled(self, epoch: int) -> NDArray[np.int64]:
        pieces = self._pieces(epoch)
        shuffled = [pieces[i] for i in generator(self._seed, "shards", epoch).permutation(len(pieces))]
        blocks = []
        for start in range(0, len(shuffled), self._block):
            block = np.concatenate(shuffled[start : start + self._block])
            blocks.append(generator(self._seed, "block", epoch, start).permutation(block))
        return np.concatenate(blocks)

    def _pieces(self, epoch: int) -> list[NDArray[np.int64]]:
        """Return the samples of an epoch shard by shard; a shard that is seen twice is two pieces."""
        pieces = []
        repeats = self._repeats()
        again = np.zeros(len(self._index), bool)
        for name, members in self._members.items():
            draw = generator(self._seed, "subset", epoch, name)
            again[draw.choice(members, size=repeats[name][1], replace=False)] = True
        for i, shard in enumerate(self._index.shards):
            samples = np.arange(self._index.starts[i], self._index.starts[i + 1])
            whole = repeats[shard.dataset][0]
            pieces += [samples + repeat * len(self._index) for repeat in range(whole)]
            pieces.append(samples[again[samples]] + whole * len(self._index))
        return [piece for piece in pieces if len(piece)]

    def global_batch(self, step: int) -> list[Place]:
        """Return the places of an optimiser step, (global_size,).

        Args:
            step: Counts from 0.
        """
        first = step * self._global_size
        places = []
        for position in range(first, first + self._global_size):
            epoch, row = divmod(position, self.epoch_size)
            repeat, sample = divmod(int(self.epoch(epoch)[row]), len(self._index))
            places.append(Place(epoch, repeat, sample))
        return places


def weights_of(datasets: list[DatasetConfig]) -> dict[str, float]:
    """Return the weight of each data set by name."""
    return {dataset.name: dataset.weight for dataset in datasets}


def positions_of(accumulation_step: int, rank: int, world_size: int, micro_size: int) -> range:
    """Return the positions of the global batch that a rank computes at an accumulation step."""
    first = (accumulation_step * world_size + rank) * micro_size
    return range(first, first + micro_size)


def itm_partners(kinds: list[str], rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw which picture each text of a group is shown with, for image-text matching.

    Half of the group (rounded down) keeps its own picture; each other text gets that of another member, of its own kind
    if there is one. A group of one keeps its own.

    Args:
        kinds: "image" or "video" of each of the n members.
        rng: Generator keyed to this group.

    Returns:
        partner: (n,) member whose picture is shown.
        label: (n,) 1 where it is the right one, else 0.
    """
    size = len(kinds)
    partner = np.arange(size, dtype=np.int64)
    label = np.ones(size, np.int64)
    if size < 2:
        return partner, label
    for row in rng.permutation(size)[size // 2 :].tolist():
        others = [i for i in range(size) if i != row]
        alike = [i for i in others if kinds[i] == kinds[row]]
        partner[row] = rng.choice(alike or others)
        label[row] = 0
    return partner, label
