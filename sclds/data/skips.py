"""Which batch of the order an optimizer step reads, where windows of batches are left out.

A window is `(first, count)`: batches `first` to `first + count - 1` of the order are read by no step. Order, masks and
negatives are keyed by the batch, so that a run with windows is the run without them, some batches further on.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import TypeAlias

Windows: TypeAlias = Sequence[tuple[int, int]]


def batch_of_step(step: int, windows: Windows) -> int:
    """Return the batch of the order that an optimizer step (from 0) reads; windows may touch and overlap."""
    batch = step
    end = 0
    for first, count in sorted(windows):
        start, stop = max(first, end), first + count
        if start <= batch and stop > start:
            batch += stop - start
        end = max(end, stop)
    return batch


def same_until(step: int, windows: Windows, others: Windows) -> bool:
    """Return whether optimizer steps before `step` read the same batches under both."""
    ends = [batch_of_step(step - 1, one) if step else -1 for one in (windows, others)]
    return ends[0] == ends[1] and _left_out(windows, ends[0]) == _left_out(others, ends[1])


def _left_out(windows: Windows, last: int) -> list[list[int]]:
    """Return the batches up to `last` that no step reads, as disjoint ranges in order."""
    ranges: list[list[int]] = []
    for first, count in sorted(windows):
        stop = min(first + count, last + 1)
        if first >= stop:
            continue
        if ranges and first <= ranges[-1][1]:
            ranges[-1][1] = max(ranges[-1][1], stop)
        else:
            ranges.append([first, stop])
    return ranges


def batches_from(step: int, windows: Windows) -> Iterator[int]:
    """Yield the batches of an optimizer step and of all after it."""
    return (batch_of_step(one, windows) for one in itertools.count(step))
