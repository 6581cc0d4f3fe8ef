"""Host time of what a step keeps books of for the whole cluster, with the number of ranks simulated in one process.

Every rank has to know where its rows lie among those of all ranks, and which samples it has of the global batch. Both
must cost the same at 16,384 ranks as at 8: a launch is about 5 µs of host time, and every rank pays.
"""

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sclds.losses.communicator import Ints, gather_rows

RANKS = (8, 64, 1024, 4096, 16384)
"""Worlds that are simulated."""
_ROWS, _WIDTH, _TENSORS = 4, 4, 12
"""Rows and columns of a rank's part of each tensor, small so that arithmetic does not hide the bookkeeping."""
_TURNS = 7


class BookkeepingRow(NamedTuple):
    """Median host time at one number of ranks."""

    ranks: int
    gather_ms: float
    """Places of all ranks' rows, with the arithmetic on 16 numbers of each rank and tensor taken off."""
    order_ms: float
    """This rank's samples of the global batch."""


class _Simulated:
    """All ranks bring what this one brings."""

    rank = 0

    def __init__(self, world_size: int):
        self.world_size = world_size

    def all_gather(self, tensor: Tensor) -> Tensor:
        return tensor[None].expand(self.world_size, *tensor.shape)

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        return tensor * self.world_size

    def gather_counts(self, counts: Sequence[int]) -> Ints:
        return np.broadcast_to(np.array(counts, np.int64), (self.world_size, len(counts)))


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

    def arithmetic() -> None:
        for k in range(_TENSORS):
            copies[:, k * _ROWS * _WIDTH : (k + 1) * _ROWS * _WIDTH].reshape(-1, _WIDTH)

    gathering = _seconds(lambda step: gather_rows(tensors, lengths, communicator)) - _seconds(lambda step: arithmetic())
    return BookkeepingRow(ranks, 1e3 * max(0.0, gathering), 1e3 * _seconds(own_samples))


def _seconds(work: Callable[[int], object]) -> float:
    """Return the median over turns, the first of which is not counted."""
    turns = []
    for turn in range(_TURNS + 1):
        begun = time.perf_counter()
        work(turn)
        turns.append(time.perf_counter() - begun)
    return median(turns[1:])
