"""Which sample stands where: pure functions of seed, epoch and step, the same for every number of processes.

Samples are shuffled in two stages: shards are permuted, then the samples of `shuffle_block` neighboring shards are
permuted together. A larger block mixes better; a smaller one reads fewer files at a time. Only the blocks that a step
touches are ever computed, so the first step of ten million samples comes as soon as that of ten thousand.
"""

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sclds.config import DatasetConfig
from sclds.data.keys import generator
from sclds.data.storage.sample_index import SampleIndex

_EPOCHS_KEPT = 2
_BLOCKS_KEPT = 4
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Place:
    """One place of the global batch: which sample, in which epoch, and for the how-many-th time in it."""

    epoch: int
    repeat: int
    sample: int


@dataclass(frozen=True)
class _Pieces:
    """The shards of an epoch in the order in which they are read; one that is seen twice is two pieces."""

    shard: Ints
    """(p,) number of the shard."""
    repeat: Ints
    """(p,) for the how-many-th time."""
    partial: NDArray[np.bool_]
    """(p,) whether only the samples drawn for this epoch are seen."""
    block_end: Ints
    """(blocks,) samples of the epoch up to the end of each block of pieces."""
    again: NDArray[np.bool_]
    """(samples,) drawn for this epoch once more; empty if no data set is seen in part."""


class Order:
    """The infinite stream of samples, crossing epochs, with random access by step.

    Args:
        index: All samples of the mixture; those of a data set lie together.
        weights: How often each data set is seen per epoch, by name.
        seed: The run's seed.
        global_size: Samples of one optimizer step.
        shuffle_block: Shards shuffled together.
    """

    def __init__(
        self, index: SampleIndex, weights: dict[str, float], seed: int, global_size: int, shuffle_block: int
    ) -> None:
        self._index, self._seed = index, seed
        self._global_size, self._block = global_size, shuffle_block
        names = [shard.dataset for shard in index.shards]
        self._sets = list(dict.fromkeys(names))
        changes = [0, *(i for i in range(1, len(names)) if names[i] != names[i - 1]), len(names)]
        assert len(changes) == len(self._sets) + 1, "the shards of a data set lie together"
        self._bounds = index.starts[changes]
        self._set_of_shard = np.repeat(np.arange(len(self._sets)), np.diff(changes))
        self._whole, self._part = self._repeats(weights)
        self._epochs: OrderedDict[int, _Pieces] = OrderedDict()
        self._blocks: OrderedDict[tuple[int, int], Ints] = OrderedDict()
        self.epoch_size = int((self._whole * np.diff(self._bounds) + self._part).sum())

    def _repeats(self, weights: dict[str, float]) -> tuple[Ints, Ints]:
        """Return for each data set how often all of it is seen, and how many samples once more; at least one sample."""
        whole = np.array([int(weights[name]) for name in self._sets], np.int64)
        sizes = np.diff(self._bounds).tolist()
        part = [
            round((weights[name] - int(weights[name])) * size) for name, size in zip(self._sets, sizes, strict=True)
        ]
        return whole, np.where(whole > 0, part, np.maximum(1, part)).astype(np.int64)

    def epoch(self, epoch: int) -> Ints:
        """Return the samples of an epoch in the order in which they are seen.

        Returns:
            (epoch_size,) sample + samples · repeat, where repeat counts how often the epoch has had the sample.
        """
        blocks = range(len(self._pieces(epoch).block_end))
        return np.concatenate([self._shuffled(epoch, block) for block in blocks])

    def global_batch(self, step: int) -> list[Place]:
        """Return the places of an optimizer step, (global_size,).

        Args:
            step: Counts from 0.
        """
        position = step * self._global_size
        places: list[Place] = []
        while len(places) < self._global_size:
            epoch, row = divmod(position, self.epoch_size)
            ends = self._pieces(epoch).block_end
            number = int(np.searchsorted(ends, row, side="right"))
            block = self._shuffled(epoch, number)
            first = row - int(ends[number]) + len(block)
            taken = block[first : first + self._global_size - len(places)]
            repeats, samples = np.divmod(taken, len(self._index))
            places += [Place(epoch, *pair) for pair in zip(repeats.tolist(), samples.tolist(), strict=True)]
            position += len(taken)
        return places

    def shards_ahead(self, step: int) -> list[int]:
        """Return the shards of the block in which a step begins and of the next one, in the order of reading."""
        epoch, row = divmod(step * self._global_size, self.epoch_size)
        pieces = self._pieces(epoch)
        start = int(np.searchsorted(pieces.block_end, row, side="right")) * self._block
        ahead = pieces.shard[start : start + 2 * self._block].tolist()
        if start + self._block >= len(pieces.shard):
            ahead += self._pieces(epoch + 1).shard[: self._block].tolist()
        return list(dict.fromkeys(ahead))

    def _shuffled(self, epoch: int, block: int) -> Ints:
        """Return the samples of a block, permuted; numbered as in `epoch`."""
        if (epoch, block) not in self._blocks:
            pieces, start = self._pieces(epoch), block * self._block
            chosen = range(start, min(start + self._block, len(pieces.shard)))
            samples = np.concatenate([self._samples(pieces, i) for i in chosen])
            self._blocks[epoch, block] = generator(self._seed, "block", epoch, start).permutation(samples)
        self._blocks.move_to_end((epoch, block))
        while len(self._blocks) > _BLOCKS_KEPT:
            self._blocks.popitem(last=False)
        return self._blocks[epoch, block]

    def _samples(self, pieces: _Pieces, piece: int) -> Ints:
        """Return the samples of a piece in the order of the file."""
        shard = pieces.shard[piece]
        samples = np.arange(self._index.starts[shard], self._index.starts[shard + 1])
        if pieces.partial[piece]:
            samples = samples[pieces.again[samples]]
        return samples + int(pieces.repeat[piece]) * len(self._index)

    def _pieces(self, epoch: int) -> _Pieces:
        """Return the shards of an epoch, permuted."""
        if epoch not in self._epochs:
            self._epochs[epoch] = self._drawn(epoch)
            while len(self._epochs) > _EPOCHS_KEPT:
                self._epochs.popitem(last=False)
        return self._epochs[epoch]

    def _drawn(self, epoch: int) -> _Pieces:
        sizes = np.diff(self._index.starts)
        again, drawn = self._subset(epoch)
        times = self._whole[self._set_of_shard] + 1
        shard = np.repeat(np.arange(len(sizes)), times)
        repeat = np.arange(len(shard)) - np.repeat(np.cumsum(times) - times, times)
        partial = repeat == self._whole[self._set_of_shard[shard]]
        length = np.where(partial, drawn[shard], sizes[shard])
        filled = np.flatnonzero(length)
        order = filled[generator(self._seed, "shards", epoch).permutation(len(filled))]
        last = np.minimum(np.arange(self._block, len(order) + self._block, self._block), len(order)) - 1
        return _Pieces(shard[order], repeat[order], partial[order], np.cumsum(length[order])[last], again)

    def _subset(self, epoch: int) -> tuple[NDArray[np.bool_], Ints]:
        """Draw the samples of data sets that are seen in part; return a mask, and how many each shard has."""
        shards = len(self._index.shards)
        if not self._part.any():
            return np.empty(0, np.bool_), np.zeros(shards, np.int64)
        again = np.zeros(len(self._index), np.bool_)
        for number, name in enumerate(self._sets):
            first, end = self._bounds[number : number + 2].tolist()
            draw = generator(self._seed, "subset", epoch, name)
            again[first + draw.choice(end - first, size=self._part[number], replace=False)] = True
        # an empty shard has no first sample to sum from
        full = np.flatnonzero(np.diff(self._index.starts))
        drawn = np.zeros(shards, np.int64)
        drawn[full] = np.add.reduceat(again, self._index.starts[full], dtype=np.int64)
        return again, drawn


def weights_of(datasets: list[DatasetConfig]) -> dict[str, float]:
    """Return the weight of each data set by name."""
    return {dataset.name: dataset.weight for dataset in datasets}


def positions_of(accumulation_step: int, rank: int, world_size: int, micro_size: int) -> range:
    """Return the positions of the global batch that a rank computes at an accumulation step."""
    first = (accumulation_step * world_size + rank) * micro_size
    return range(first, first + micro_size)


def itm_partners(kinds: list[str], rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw which image each text of a group is shown with, for image-text matching.

    Half of the group (rounded down) keeps its own image; each other text gets that of another member, of its own kind
    if there is one. A group of one keeps its own.

    Args:
        kinds: "image" or "video" of each of the n members.
        rng: Generator keyed to this group.

    Returns:
        partner: (n,) member whose image is shown.
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
