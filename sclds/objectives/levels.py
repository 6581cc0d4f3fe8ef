"""What an objective's loss is when the model tells nothing apart: the level from which learning has to come down.

A comparison with n candidates that are all alike costs ln n a direction, two classes that are equally likely ln 2. So a
loss over 128 candidates and one over 64 are no nearer to each other than their levels are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from sclds.objectives.table import Objective

DIRECTIONS = 2
"""Of an nce, which are summed."""


@dataclass(frozen=True)
class Makeup:
    """Counts of the samples that are candidates of one another: a global batch, or what runs of it at the same time."""

    completed: float
    """Tokens that t2 masks."""
    replaced: float
    """Patches that v2 replaces."""
    replaced_level: float
    """Sum over groups of `grouped_level`."""
    with_frames: tuple[float, ...]
    """Samples of 1, 2, … frames."""

    @property
    def samples(self) -> float:
        """All of them."""
        return sum(self.with_frames)

    def numbers(self) -> list[float]:
        """Return the counts as a list, of which those of several processes add up."""
        return [self.completed, self.replaced, self.replaced_level, *self.with_frames]

    @classmethod
    def of_numbers(cls, numbers: Sequence[float]) -> Self:
        """Return the counts that `numbers` gave as a list."""
        completed, replaced, level, *with_frames = numbers
        return cls(completed, replaced, level, tuple(with_frames))


def grouped_level(replaced: int) -> float:
    """Return the sum of the losses of the tokens of a group that are compared among themselves."""
    return replaced * DIRECTIONS * _log(replaced)


def trivial_level(objective: Objective, makeups: Sequence[Makeup], word_entropy: float | None = None) -> float | None:
    """Return what an objective's loss is when all candidates look alike.

    Args:
        objective: A row of the table.
        makeups: Of every part of a step whose samples are candidates of one another; one where that is all of it.
        word_entropy: In nats, of the words that MLM predicts: what their frequencies alone give.

    Returns:
        Nats; None where it is not known, or nothing is compared.
    """
    if objective.loss == "cross_entropy":
        return word_entropy if objective.classes is None else math.log(objective.classes)
    weights = [_count(objective, makeup) for makeup in makeups]
    if not sum(weights):
        return None
    return sum(w * _level(objective, m) for w, m in zip(weights, makeups, strict=True) if w) / sum(weights)


def _count(objective: Objective, makeup: Makeup) -> float:
    return float(getattr(makeup, objective.count))


def _level(objective: Objective, makeup: Makeup) -> float:
    """Return the level of what is compared over the global batch, or in groups."""
    count = _count(objective, makeup)
    if objective.loss == "group_nce":
        return makeup.replaced_level / count
    if objective.loss == "sigmoid":  # one of n pairs of a row matches, and every pair is given that share
        return _log(count) + ((count - 1) * math.log(count / (count - 1)) if count > 1 else 0.0)
    if not objective.per_frame:
        return DIRECTIONS * _log(count)
    having = [sum(makeup.with_frames[f:]) for f in range(len(makeup.with_frames))]
    of_samples = (
        samples / frames * sum(DIRECTIONS * _log(n) for n in having[:frames])
        for frames, samples in enumerate(makeup.with_frames, 1)
    )
    return sum(of_samples) / count


def _log(count: float) -> float:
    return math.log(max(count, 1.0))
