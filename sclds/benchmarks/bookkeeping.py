"""Processor time of what a step keeps books of for the whole cluster, with the ranks simulated in one process.

Every rank has to know where its rows lie among those of all ranks, and which samples it has of the global batch.
Neither may grow with the number of ranks: a launch is about 5 µs of host time, and every rank pays. The first is the
training process's own work, the second the loader's, which is ahead of the step and a process of its own beside a GPU.
"""

import csv
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sclds.config import DataConfig
from sclds.data.order import Order, Place, positions_of
from sclds.data.shuffle_quality import synthetic_order
from sclds.losses.communicator import Ints, gather_rows
from sclds.losses.global_features import StepSizes, first_rows

RANKS = (8, 64, 1024, 4096, 16384)
"""Worlds that are simulated."""
SHARD_SAMPLES, RANK_SAMPLES = 10_000, 32
"""Samples of a shard of the simulated data, and of a step on each rank."""
_ROWS, _WIDTH = 4, 4
"""Rows and columns of a rank's part of each tensor; they lie on no device, so that nothing is computed with them."""
_COUNTS = 5
"""Counts that ranks exchange of a micro-batch: samples, words, completed tokens, replaced patches, and a frame."""
_COMPARED = (0, 0, 2)
"""Which of these each comparison has as its rows: two of samples, and one of completed tokens, as in GLSCL."""
_TENSORS = 3
"""Of a comparison: both sides, and identities."""
_TURNS = 15
_EPOCHS = 8


class BookkeepingRow(NamedTuple):
    """Processor time at one number of ranks; of gathers the median of some steps."""

    ranks: int
    gather_ms: float
    """Sizes of all ranks, and places of all their rows, where all ranks bring as many."""
    uneven_ms: float
    """The same where some of the counts differ between ranks."""
    order_ms: float
    """This rank's samples of the global batch, mean of the steps that read a block, 15 at least."""
    order_most_ms: float
    """The same in the slowest of them, which shuffles a block."""
    epoch_ms: float
    """The same in the slowest step in which an epoch begins, one of eight: its samples are kept apart from those with
    which the epoch before ends, if they come from the same shards."""


class _Simulated:
    """All ranks bring what this one brings."""

    rank = 0

    def __init__(self, world_size: int):
        self.world_size = world_size

    def all_gather(self, tensor: Tensor) -> Tensor:
        return tensor[None].expand(self.world_size, *tensor.shape)

    def start_all_gather(self, tensor: Tensor) -> Callable[[], Tensor]:
        return lambda: self.all_gather(tensor)

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        return tensor * self.world_size

    def gather_counts(self, counts: Sequence[int]) -> Ints:
        return np.tile(np.array(counts, np.int64), (self.world_size, 1))


def compare_worlds(samples: int, folder: Path, worlds: Sequence[int] = RANKS) -> list[BookkeepingRow]:
    """Time the bookkeeping of the last rank at each number of ranks, and write `bookkeeping.csv`.

    Args:
        samples: Of the simulated data set, rounded up to whole shards.
        folder: Made if it is not there.
        worlds: Numbers of ranks.
    """
    rows = [measure(ranks, samples) for ranks in worlds]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "bookkeeping.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(BookkeepingRow._fields)
        writer.writerows(rows)
    return rows


def measure(ranks: int, samples: int) -> BookkeepingRow:
    """Time the bookkeeping of the last one of `ranks`.

    Args:
        ranks: Simulated.
        samples: Of the simulated data set, rounded up to whole shards.
    """
    communicator = _Simulated(ranks)
    even = communicator.gather_counts([_ROWS] * _COUNTS)
    uneven = even.copy()
    uneven[1::2, 2] = 1
    gathering, unevenly = (
        # the first turn warms up
        median(_seconds(partial(_books, table, communicator), range(_TURNS + 1))[1:])
        for table in (even, uneven)
    )
    block, batch = DataConfig.model_fields["shuffle_block"].default, ranks * RANK_SAMPLES
    order = synthetic_order(-(-samples // SHARD_SAMPLES), SHARD_SAMPLES, block, batch)
    own = partial(_own_samples, order, ranks)
    listing = _seconds(own, range(max(_TURNS, block * SHARD_SAMPLES // batch)))
    beginnings = _seconds(own, [epoch * order.epoch_size // batch for epoch in range(1, _EPOCHS + 1)])
    times = (gathering, unevenly, mean(listing), max(listing), max(beginnings))
    return BookkeepingRow(ranks, *(1e3 * seconds for seconds in times))


def _own_samples(order: Order, ranks: int, step: int) -> list[Place]:
    """Return the places of the last rank in a step's global batch."""
    return order.places(step, positions_of(0, ranks - 1, ranks, RANK_SAMPLES))


def _books(table: Ints, communicator: _Simulated, step: int) -> None:
    """Do for (W, counts) of all ranks what a step does, with tensors that only have a shape."""
    sizes = StepSizes(table[:, None])
    lengths = [sizes.of_all[0][count] for count in _COMPARED]
    for of_term in lengths:
        first_rows([of_term], communicator.rank)
    tensors = [torch.empty(_ROWS, _WIDTH, device="meta") for _ in range(len(lengths) * _TENSORS)]
    gather_rows(tensors, [of_term for of_term in lengths for _ in range(_TENSORS)], communicator)


def _seconds(work: Callable[[int], object], steps: Iterable[int]) -> list[float]:
    """Return the processor time of every step."""
    turns = []
    for step in steps:
        begun = time.process_time()
        work(step)
        turns.append(time.process_time() - begun)
    return turns
