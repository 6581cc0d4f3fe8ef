"""The best checkpoint of a run by a figure of its held-out sets."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sclds.evaluation.tasks import higher_is_better
from sclds.run.checkpoints import checkpoint_name, read_checkpoint
from sclds.train.distributed import ProcessGroup


class BestCheckpoint:
    """Knows at which step a figure was best so far; only rank 0 has to know, and tells the others.

    Args:
        figure: `checkpoint.best`; None: no checkpoint is kept for being best.
        group: All processes.
        lines: Of metrics.jsonl, up to the step at which the run goes on. Only steps of which there still is a
            checkpoint count.
        checkpoints: The run's.
    """

    def __init__(self, figure: str | None, group: ProcessGroup, lines: Iterable[Mapping[str, Any]], checkpoints: Path):
        self._figure, self._group = figure, group
        self._value: float | None = None
        self._step: int | None = None
        for line in lines if figure else ():
            value = line.get(figure or "")
            if value is not None and read_checkpoint(checkpoints / checkpoint_name(line["step"])) is not None:
                self._take(line["step"], value)

    def improved(self, step: int, figures: Mapping[str, float | None]) -> bool:
        """Return, on all ranks alike, whether the figure is better at `step` than ever before, and remember that."""
        value = figures.get(self._figure or "")
        better = value is not None and math.isfinite(value) and self._take(step, value)
        [agreed] = self._group.any(better and self._group.rank == 0)
        return agreed

    def _take(self, step: int, value: float) -> bool:
        """Take a step for the best one, if it is better; of equal ones the first counts."""
        sign = 1 if higher_is_better(self._figure or "") else -1
        if self._value is not None and sign * value <= sign * self._value:
            return False
        self._value, self._step = value, step
        return True

    def best_step(self) -> int | None:
        """Return the step of the best one; None before the first, and on ranks other than 0."""
        return self._step
