"""Host time of what a step keeps books of for the whole cluster, with the number of ranks simulated in one process.

Every rank has to know where its rows lie among those of all ranks, and which samples it has of the global batch.
Neither may grow with the number of ranks: a launch is about 5 µs of host time, and every rank pays.
"""

import csv
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sclds.config import DataConfig
from sclds.data.order import positions_of
from sclds.data.shuffle_quality import synthetic_order
from sclds.losses.communicator import Ints, gather_rows

RANKS = (8, 64, 1024, 4096, 16384)
"""Worlds that are simulated."""
SHARD_SAMPLES, RANK_SAMPLES = 10_000, 32
"""Samples of a shard of the simulated data, and of a step on each rank."""
_ROWS, _WIDTH, _TENSORS = 4, 4, 12
"""Rows and columns of a rank's part of each tensor, small so that arithmetic does not hide the bookkeeping."""
_TURNS = 7


class BookkeepingRow(NamedTuple):
    """Host time at one number of ranks, median of some steps."""

    ranks: int
    gather_ms: float
    """Places of all ranks' rows, with the arithmetic on 16 numbers of each rank and tensor taken off."""
    order_ms: float
    """This rank's samples of the global batch, where those around them have been shuffled already."""
    order_most_ms: float
    """The same in the slowest step, in which they are shuffled: once in some steps."""


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
        return np.broadcast_to(np.array(counts, np.int64), (self.world_size, len(counts)))


def compare_worlds(samples: int, folder: Path, worlds: Sequence[int] = RANKS) -> list[BookkeepingRow]:
    """Time the bookkeeping of the last rank at each number of ranks, and write `bookkeeping.csv`.

    Args:
        samples: Of the simulated data set, rounded up to whole shards.
        folder: Made if it is not there.
        worlds: Numbers of ranks.
    """
    rows = [measure(ranks, _own_samples(ranks, samples)) for ranks in worlds]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "bookkeeping.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(BookkeepingRow._fields)
        writer.writerows(rows)
    return rows


def _own_samples(ranks: int, samples: int) -> Callable[[int], object]:
    """Return what lists the places of the last rank in a step's global batch."""
    block = DataConfig.model_fields["shuffle_block"].default
    order = synthetic_order(-(-samples // SHARD_SAMPLES), SHARD_SAMPLES, block, ranks * RANK_SAMPLES)
    positions = positions_of(0, ranks - 1, ranks, RANK_SAMPLES)
    return lambda step: order.places(step, positions)


def measure(ranks: int, own_samples: Callable[[int], object]) -> BookkeepingRow:
    """Time the bookkeeping of one rank among `ranks`.

    Args:
        ranks: Simulated.
        own_samples: Lists this rank's samples of a step's global batch, by step.
    """
    communicator = _Simulated(ranks)
    tensors = [torch.ones(_ROWS, _WIDTH) for _ in range(_TENSORS)]
    lengths = communicator.gather_counts([_ROWS] * _TENSORS)
    copies = communicator.all_gather(torch.ones(_ROWS * _WIDTH * _TENSORS))

    def arithmetic() -> list[Tensor]:  # kept until all are made, as the gather does: fresh memory takes its time too
        size = _ROWS * _WIDTH
        return [copies[:, k * size : (k + 1) * size].reshape(-1, _WIDTH) for k in range(_TENSORS)]

    gathering = median(_seconds(lambda step: gather_rows(tensors, lengths, communicator))[1:])
    gathering -= median(_seconds(lambda step: arithmetic())[1:])
    listing = _seconds(own_samples)
    return BookkeepingRow(ranks, 1e3 * max(0.0, gathering), 1e3 * median(listing[1:]), 1e3 * max(listing))


def _seconds(work: Callable[[int], object]) -> list[float]:
    """Return the time of every turn; the first one warms up."""
    turns = []
    for turn in range(_TURNS + 1):
        begun = time.perf_counter()
        work(turn)
        turns.append(time.perf_counter() - begun)
    return turns
