"""Which sample stands where: pure functions of seed, epoch and step, the same for every number of processes.

Samples are shuffled in two stages: shards are permuted, then the samples of `shuffle_block` neighboring shards are
permuted together. A larger block mixes better; a smaller one reads fewer files at a time. Only the blocks that a
process reads of are ever computed, so the first step of ten million samples comes as soon as that of ten thousand, and
what a process computes does not grow with the global batch.

A data set that is seen more than once an epoch, and the end of every epoch, could bring a sample into one global batch
twice, as its own negative. Such repetitions change places nearby (`sclds.data.apart`), as far as an epoch has some
global batches and a data set is larger than its share of one (`Order.crowded`). Whoever reads there computes all of the
stretch in which they are moved.
"""

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from sclds.config import DatasetConfig
from sclds.data.apart import Stretch, apart_from, apart_within
from sclds.data.keys import generator
from sclds.data.storage.sample_index import SampleIndex

_EPOCHS_KEPT = 3
_BLOCKS_KEPT = 4
_STRETCHES_KEPT = 4
_STRETCH_BATCHES = 4
"""Global batches of a stretch, at least: two may be shared with its neighbors, the others take what is moved."""
Ints = NDArray[np.int64]
K = TypeVar("K")
V = TypeVar("V")


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
    stretch_end: Ints
    """(stretches,) the same for stretches: a block, or as many as have room to keep repetitions apart."""
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
        self._drafts: OrderedDict[tuple[int, int], Stretch] = OrderedDict()
        self._stretches: OrderedDict[tuple[int, int], Stretch] = OrderedDict()
        seen = self._whole * np.diff(self._bounds) + self._part
        self.epoch_size = int(seen.sum())
        self._repeating = bool((seen > np.diff(self._bounds)).any())
        """Whether an epoch has any sample twice."""

    def crowding(self) -> list[str]:
        """Return a sentence for every data set that has to stand in a global batch more than once."""
        return [
            f"Data set '{name}' has {size:,} samples, and a global batch takes {share:,.1f} of it: some stand there "
            f"twice. Lower its weight or batch.global_size to avoid that"
            for name, (size, share) in self.crowded().items()
        ]

    def crowded(self) -> dict[str, tuple[int, float]]:
        """Return the data sets smaller than their share of a global batch, which holds samples of them twice.

        Returns:
            By name, the samples that it has, and those that a batch takes on average.
        """
        sizes = np.diff(self._bounds)
        shares = (self._whole * sizes + self._part) * self._global_size / self.epoch_size
        found = zip(self._sets, sizes.tolist(), shares.tolist(), strict=True)
        return {name: (size, share) for name, size, share in found if share > size}

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
        parts, row = [], 0
        while row < self.epoch_size:
            parts.append(self._from(epoch, row))
            row += len(parts[-1])
        return np.concatenate(parts)

    def global_batch(self, step: int) -> list[Place]:
        """Return the places of an optimizer step, (global_size,).

        Args:
            step: Counts from 0.
        """
        return self.places(step, range(self._global_size))

    def places(self, step: int, positions: range) -> list[Place]:
        """Return some neighboring places of an optimizer step; a rank asks for its own, however large the whole is.

        Args:
            step: Counts from 0.
            positions: Of the global batch, with a step of 1.
        """
        position, end = step * self._global_size + positions.start, step * self._global_size + positions.stop
        places: list[Place] = []
        while position < end:
            epoch, row = divmod(position, self.epoch_size)
            taken = self._from(epoch, row)[: end - position]
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

    def _from(self, epoch: int, row: int) -> Ints:
        """Return the samples of an epoch from a row to the end of its block, or of its stretch where some may move."""
        pieces = self._pieces(epoch)
        number = int(np.searchsorted(pieces.stretch_end, row, side="right"))
        if self._repeating or (number == 0 and self._meets_the_last(epoch)):
            stretch = self._stretch(epoch, number)
            return stretch.numbers[epoch * self.epoch_size + row - stretch.start :]
        block = int(np.searchsorted(pieces.block_end, row, side="right"))
        shuffled = self._shuffled(epoch, block)
        return shuffled[row - int(pieces.block_end[block]) :]

    def _meets_the_last(self, epoch: int) -> bool:
        """Return whether an epoch and the one before read any shard in common in the batch that they share."""
        of_last = epoch * self.epoch_size % self._global_size
        if not of_last:
            return False
        last, own = self._pieces(epoch - 1), self._pieces(epoch)
        first_block = int(np.searchsorted(last.block_end, self.epoch_size - of_last, side="right"))
        end_block = int(np.searchsorted(own.block_end, self._global_size - of_last)) + 1
        shards = set(last.shard[first_block * self._block :].tolist())
        return not shards.isdisjoint(own.shard[: end_block * self._block].tolist())

    def _stretch(self, epoch: int, number: int) -> Stretch:
        """Return a stretch as it is read: apart from itself and from the one before."""
        if (epoch, number) not in self._stretches:
            draft = self._draft(epoch, number)
            if draft.start % self._global_size:
                before = (epoch, number - 1) if number else (epoch - 1, len(self._pieces(epoch - 1).stretch_end) - 1)
                rng = generator(self._seed, "apart from", epoch, number)
                numbers = apart_from(draft, self._draft(*before), len(self._index), self._global_size, rng)
                draft = replace(draft, numbers=numbers)
            _keep(self._stretches, (epoch, number), draft, _STRETCHES_KEPT)
        return self._stretches[epoch, number]

    def _draft(self, epoch: int, number: int) -> Stretch:
        """Return a stretch shuffled block by block, apart from itself."""
        if (epoch, number) not in self._drafts:
            pieces, ends = self._pieces(epoch), self._pieces(epoch).stretch_end
            first, end = (int(ends[number - 1]) if number else 0), int(ends[number])
            blocks = np.flatnonzero((pieces.block_end > first) & (pieces.block_end <= end)).tolist()
            numbers = np.concatenate([self._shuffled(epoch, block) for block in blocks])
            draft = Stretch(numbers, pieces.block_end[blocks] - first, epoch * self.epoch_size + first)
            if self._repeating:
                rng = generator(self._seed, "apart", epoch, number)
                draft = replace(draft, numbers=apart_within(draft, len(self._index), self._global_size, rng))
            _keep(self._drafts, (epoch, number), draft, _STRETCHES_KEPT)
        return self._drafts[epoch, number]

    def _shuffled(self, epoch: int, block: int) -> Ints:
        """Return the samples of a block, permuted; numbered as in `epoch`."""
        if (epoch, block) not in self._blocks:
            pieces, start = self._pieces(epoch), block * self._block
            chosen = range(start, min(start + self._block, len(pieces.shard)))
            samples = np.concatenate([self._samples(pieces, i) for i in chosen])
            shuffled = generator(self._seed, "block", epoch, start).permutation(samples)
            _keep(self._blocks, (epoch, block), shuffled, _BLOCKS_KEPT)
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
            _keep(self._epochs, epoch, self._drawn(epoch), _EPOCHS_KEPT)
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
        ends = np.cumsum(length[order])[last]
        return _Pieces(shard[order], repeat[order], partial[order], ends, self._stretch_ends(ends), again)

    def _stretch_ends(self, block_end: Ints) -> Ints:
        """Return the ends of stretches of whole blocks; what is left over at the end of the epoch joins the last."""
        ends, least = [0], _STRETCH_BATCHES * self._global_size
        for end in block_end.tolist():
            if end - ends[-1] >= least:
                ends.append(end)
        return np.array([*ends[1:-1], self.epoch_size], np.int64)

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


def _keep(kept: OrderedDict[K, V], key: K, value: V, most: int) -> None:
    """Keep the newest values."""
    kept[key] = value
    while len(kept) > most:
        kept.popitem(last=False)


def weights_of(datasets: list[DatasetConfig]) -> dict[str, float]:
    """Return the weight of each data set by name."""
    return {dataset.name: dataset.weight for dataset in datasets}


def positions_of(accumulation_step: int, rank: int, world_size: int, micro_size: int) -> range:
    """Return the positions of the global batch that a rank computes at an accumulation step."""
    first = (accumulation_step * world_size + rank) * micro_size
    return range(first, first + micro_size)


def itm_partners(possible: NDArray[np.bool_], rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Draw which image each text of a group is shown with, for image-text matching.

    Half of the group (rounded down) keeps its own image; each other text gets that of a member that may be its wrong
    partner, all equally likely. Where there is none it keeps its own.

    Args:
        possible: (n, n) which members' images may be shown as wrong ones beside each text, see `wrong_partners`.
        rng: Generator keyed to this group.

    Returns:
        partner: (n,) member whose image is shown.
        label: (n,) 1 where it is the right one, else 0.
    """
    size = len(possible)
    partner = np.arange(size, dtype=np.int64)
    label = np.ones(size, np.int64)
    for row in rng.permutation(size)[size // 2 :].tolist():
        if possible[row].any():
            partner[row] = rng.choice(np.flatnonzero(possible[row]))
            label[row] = 0
    return partner, label
