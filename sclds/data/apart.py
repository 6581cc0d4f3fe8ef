"""No sample twice in a global batch, where the order can help it: repetitions change places with others nearby.

A stretch of the stream is rearranged by itself first, then its beginning for the end of the stretch before, by
exchanges that leave its own end alone. So a stretch depends on the one before it and on no more, and any step of the
stream is reached as fast as before.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

_TRIES = 32
"""Places that are tried for a repetition in its own block, and again in its stretch."""
_GIVEN_UP = 64
"""Repetitions of a stretch without a place, after which the rest stay where they are: a data set is too small."""


@dataclass(frozen=True)
class Stretch:
    """Some blocks of the stream."""

    numbers: Ints
    """(n,) the samples in order, numbered as in `Order.epoch`."""
    block_end: Ints
    """(blocks,) end of each block."""
    start: int
    """Position of the first in the stream."""


def apart_within(stretch: Stretch, samples: int, batch_size: int, rng: np.random.Generator) -> Ints:
    """Return a stretch's numbers rearranged so that no batch's part of it holds a sample twice.

    Args:
        stretch: What to rearrange.
        samples: Of all data sets; numbers that are equal modulo it are one sample.
        batch_size: Samples of a global batch.
        rng: Keyed to the stretch.
    """
    batch = _batches(stretch, batch_size)
    sample, place = _by_sample(stretch.numbers % samples)
    again = (np.diff(sample) == 0) & (np.diff(batch[place]) == 0)  # places of a sample ascend, and so do their batches
    exchange = _Exchange(stretch, samples, batch, np.empty(0, np.int64))
    return exchange.all_of(np.sort(place[1:][again]), range(len(batch)), rng)


def apart_from(stretch: Stretch, before: Stretch, samples: int, batch_size: int, rng: np.random.Generator) -> Ints:
    """Return a stretch's numbers rearranged so that its first batch shares none with the stretch before.

    Exchanges leave alone the places of the batch that goes on in the next stretch. Arguments as of `apart_within`;
    both stretches as it returned them.
    """
    batch = _batches(stretch, batch_size)
    shared = before.numbers[_batches(before, batch_size) == batch[0]] % samples
    head = int(np.searchsorted(batch, batch[0], side="right"))
    after = stretch.start + len(batch)
    end = len(batch) if after % batch_size == 0 else int(np.searchsorted(batch, batch[-1], side="left"))
    sample, place = _by_sample(stretch.numbers[:head] % samples)
    held = np.sort(shared)
    again = np.sort(place[held.searchsorted(sample, "right") > held.searchsorted(sample)])
    if not len(again) or head >= end:
        return stretch.numbers
    exchange = _Exchange(stretch, samples, batch, shared)
    return exchange.all_of(again, range(head, end), rng)


def _batches(stretch: Stretch, batch_size: int) -> Ints:
    """Return the global batch of each place."""
    return (stretch.start + np.arange(len(stretch.numbers), dtype=np.int64)) // batch_size


def _by_sample(sample: Ints) -> tuple[Ints, Ints]:
    """Return samples in ascending order, and where each stood; equal ones as they stood."""
    # one sort of whole numbers takes a fifth of one that returns places, a twentieth of a stable one
    bits = len(sample).bit_length()
    keys = np.sort(sample << bits | np.arange(len(sample)))
    return keys >> bits, keys & ((1 << bits) - 1)


class _Exchange:
    """Moves repetitions to other batches of a stretch; `shared` belongs to its first batch too."""

    def __init__(self, stretch: Stretch, samples: int, batch: Ints, shared: Ints) -> None:
        self._stretch, self._samples, self._batch = stretch, samples, batch
        self._numbers = stretch.numbers.copy()
        self._held: dict[int, Ints] = {}
        """Samples of a batch before any exchange, ascending: sorting takes a ninetieth of what counting them would."""
        self._changes: Counter[tuple[int, int]] = Counter()
        """How often a batch has had a sample more since."""
        self._shared = shared

    def all_of(self, again: Ints, free: range, rng: np.random.Generator) -> Ints:
        """Exchange the repetitions at `again` with places in `free`; return the numbers."""
        failed = 0
        for place in again.tolist():
            sample = int(self._numbers[place]) % self._samples
            if self._count(int(self._batch[place]), sample) > 1 and not self._one(place, sample, free, rng):
                failed += 1
                if failed == _GIVEN_UP:
                    break
        return self._numbers

    def _one(self, place: int, sample: int, free: range, rng: np.random.Generator) -> bool:
        """Exchange one repetition, inside its block if possible, so that no other batch holds one for it."""
        block = int(self._stretch.block_end.searchsorted(place, side="right"))
        first = int(self._stretch.block_end[block - 1]) if block else 0
        near = range(max(first, free.start), min(int(self._stretch.block_end[block]), free.stop))
        own = int(self._batch[place])
        for places in (near, free):
            if not places:
                continue
            for other in rng.integers(places.start, places.stop, _TRIES).tolist():
                theirs, number = int(self._batch[other]), int(self._numbers[other])
                given = number % self._samples
                if own == theirs or self._count(own, given) or self._count(theirs, sample):
                    continue
                self._numbers[other], self._numbers[place] = self._numbers[place], number
                for batch, gone, come in ((own, sample, given), (theirs, given, sample)):
                    self._changes[batch, gone] -= 1
                    self._changes[batch, come] += 1
                return True
        return False

    def _count(self, batch: int, sample: int) -> int:
        """Return how often a batch holds a sample."""
        if batch not in self._held:
            first, end = self._batch.searchsorted((batch, batch + 1)).tolist()
            held = self._stretch.numbers[first:end] % self._samples
            self._held[batch] = np.sort(np.concatenate((held, self._shared)) if batch == self._batch[0] else held)
        held = self._held[batch]
        before = int(held.searchsorted(sample, "right") - held.searchsorted(sample))
        return before + self._changes[batch, sample]
