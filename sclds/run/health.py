"""Whether a loss stays at what guessing gives: seen in the lines of `metrics.jsonl`, said by the run and its page."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

TOLERANCE = 0.02
"""A loss above this much below its level, as a share of it, is at its level."""
CAUSES = (
    "usual causes: the learning rate is far too low or too high (optimizer.learning_rate), features start out alike "
    "(model.init_std, model.init_from), or captions do not belong to their images (look with `sclds data show`)"
)


@dataclass(frozen=True)
class Stuck:
    """A loss that stayed at its level."""

    term: str
    first: int
    """Step of the first logged line of the stretch."""
    last: int
    """Of the last one."""
    level: float

    def sentence(self, title: str) -> str:
        """Return what is to be said of it; `title` is what people call the loss."""
        return (
            f"{title} stayed at what guessing gives ({self.level:.3g}) from step {self.first:,} to {self.last:,}; "
            f"{CAUSES}"
        )


class Health:
    """Follows the losses of a run, line by line.

    Args:
        steps: Of the run.
        share: Of these steps, the shortest stretch that is told (`log.stuck_share`); 0 tells none.
    """

    def __init__(self, steps: int, share: float):
        self._least = steps * share
        self._since: dict[str, int] = {}
        self.stuck: dict[str, Stuck] = {}
        """Every loss that ever stayed for so long, with its longest stretch."""

    def add(self, line: Mapping[str, Any]) -> list[Stuck]:
        """Take a line of metrics.jsonl in; return what has come to be stuck with it, each loss once in a run."""
        fresh = []
        step = line["step"]
        for term, level in line.get("levels", {}).items():
            value = line.get("loss", {}).get(term)
            if level is None or value is None or not value >= (1 - TOLERANCE) * level:
                self._since.pop(term, None)
                continue
            first = self._since.setdefault(term, step)
            if not self._least or step - first < self._least:
                continue
            found = Stuck(term, first, step, level)
            if term not in self.stuck:
                fresh.append(found)
            if term not in self.stuck or step - first >= self.stuck[term].last - self.stuck[term].first:
                self.stuck[term] = found
        return fresh


def health_of(lines: Iterable[Mapping[str, Any]], steps: int, share: float) -> Health:
    """Return the health of a run after these lines."""
    health = Health(steps, share)
    for line in lines:
        health.add(line)
    return health
