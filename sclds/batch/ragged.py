"""Rows of unequal length, one behind the other in one array, without a loop over them."""

from collections.abc import Sequence

import numpy as np

Ints = np.ndarray


def ranges(starts: Ints | int, lengths: Ints) -> Ints:
    """Return ranges that begin at `starts`, one behind the other: 5 and 8, of 2 and 3, are 5, 6, 8, 9, 10."""
    return np.repeat(starts - exclusive_sum(lengths), lengths) + np.arange(lengths.sum())


def exclusive_sum(lengths: Ints) -> Ints:
    """Return where each of the rows begins: the exclusive cumulative sum of the lengths."""
    return np.cumsum(lengths) - lengths


def lengths_of(arrays: Sequence[Ints]) -> Ints:
    """Return the length of each array."""
    return np.array([len(array) for array in arrays], np.int64)


def concat(arrays: Sequence[Ints]) -> Ints:
    """Return arrays one behind the other as int64; none of them make an empty one."""
    return np.concatenate([np.zeros(0, np.int64), *arrays]).astype(np.int64, copy=False)


def cumulative(lengths: Ints) -> Ints:
    """Return cumulative lengths with a leading 0, int32 as variable-length attention wants them."""
    return np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)


def padded(rows: Ints, counts: Ints) -> Ints:
    """Return a table (B, largest count) of consecutive rows, `counts` of them in each line, -1 behind them."""
    present = np.arange(counts.max(initial=0)) < counts[:, None]
    table = np.full(present.shape, -1, np.int64)
    table[present] = rows
    return table
