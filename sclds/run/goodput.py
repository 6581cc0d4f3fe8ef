"""Where a run's time went, over all of its starts: the share in steps that its result holds, and what took the rest.

Goodput is the time of optimizer steps that stand, over the time since the run was first started. A step stands unless
the run went back behind it. What a killed process did after its last logged line is not known, and counts to `restart`.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sclds.run.events import Event

PARTS = ("step", "data", "start", "checkpoint", "evaluation", "lost", "restart", "other")
"""Steps that stand, without the wait for data; that wait; from a process's start to its first step; writing
checkpoints; measuring held-out sets; steps that were taken again; no process; what is left."""


@dataclass(frozen=True)
class Goodput:
    """Seconds of a run by part."""

    seconds: Mapping[str, float]

    @property
    def wall(self) -> float:
        """Seconds since the run was first started."""
        return sum(self.seconds.values())

    @property
    def share(self) -> float:
        """Of the time, that of steps that stand; 0 before the first."""
        return self.seconds["step"] / self.wall if self.wall else 0.0


class Spent:
    """Counts the seconds of this start by part.

    Args:
        age: Seconds since the process was started.
        before: Of earlier starts, and of the time between them.
    """

    def __init__(self, age: float, before: Goodput | None = None):
        self._begun = time.perf_counter() - age
        self._before = before
        self._seconds = dict.fromkeys(("step", "data", "start", "checkpoint", "evaluation"), 0.0)

    def charge(self, part: str, seconds: float) -> None:
        """Add seconds to a part."""
        self._seconds[part] += seconds

    def all_so_far_to(self, part: str) -> None:
        """Give a part all seconds since the start that no part has."""
        self._seconds[part] += time.perf_counter() - self._begun - sum(self._seconds.values())

    def seconds(self) -> dict[str, float]:
        """Return the seconds by part, to the millisecond."""
        return {part: round(seconds, 3) for part, seconds in self._seconds.items()}

    def share(self) -> float:
        """Return the goodput so far; steps of this start that are lost later still count."""
        before = self._before
        stands, wall = (before.seconds["step"], before.wall) if before else (0.0, 0.0)
        return (stands + self._seconds["step"]) / (wall + time.perf_counter() - self._begun)


@dataclass
class _Stretch:
    """Steps that one start took in a row, one at least."""

    first: int
    last: int
    seconds: float


def goodput_of(events: Sequence[Event], until: float | None = None) -> Goodput | None:
    """Return where the time went, by what rank 0 wrote down; None where nothing was.

    Args:
        events: Of `events.jsonl`.
        until: Counts the time up to there as `restart`, as the next start does.
    """
    own = [event for event in events if event.rank == 0]
    starts = [number for number, event in enumerate(own) if event.kind == "start"]
    if not starts:
        return None
    seconds = dict.fromkeys(PARTS, 0.0)
    stretches: list[_Stretch] = []
    end: float | None = None
    for first, following in zip(starts, [*starts[1:], len(own)], strict=True):
        of_start = own[first:following]
        begun = of_start[0].time - _number(of_start[0].facts.get("age"))
        if end is not None:
            seconds["restart"] += max(0.0, begun - end)
        last_sign = own[following].facts.get("before") if following < len(own) else None
        end = _add_start(of_start, last_sign if isinstance(last_sign, dict) else {}, begun, seconds, stretches)
    if until is not None and end is not None:
        seconds["restart"] += max(0.0, until - end)
    seconds["step"] = sum(stretch.seconds for stretch in stretches)
    return Goodput(seconds)


def _add_start(
    events: Sequence[Event], last_sign: Mapping[str, Any], begun: float, seconds: dict[str, float], into: list[_Stretch]
) -> float:
    """Add what one start spent; return when it ended.

    Args:
        events: Of the start, itself first.
        last_sign: Time, step and seconds of its last logged line, as the next start found it.
        begun: When its process was started.
        seconds: By part, added to.
        into: Steps that stand so far; those that this start takes again are moved to `lost`.
    """
    done, step, spent = 0.0, 0, {}
    marks = [(event.time, event.step, event.facts.get("spent"), event.kind) for event in events]
    last_step = last_sign.get("step")
    known = last_step if isinstance(last_step, int) else None
    marks.append((_number(last_sign.get("time")), known, last_sign.get("spent"), "line"))
    end = max(time for time, *_ in marks)
    for _, at, of_parts, kind in sorted(marks, key=lambda mark: mark[0]):
        if kind == "training" and at is not None:
            seconds["lost"] += _go_back(into, at)
            step = at
        if isinstance(of_parts, dict) and at is not None:
            total = _number(of_parts.get("step"))
            if total > done:
                # time beyond the last mark at the same step is of the step before it: an event may be noted within one
                into.append(_Stretch(min(step, at - 1), at, total - done))
            done, step, spent = total, at, of_parts
    for part in ("data", "start", "checkpoint", "evaluation"):
        seconds[part] += _number(spent.get(part))
    seconds["other"] += max(0.0, end - begun - sum(_number(spent.get(part)) for part in PARTS))
    return end


def _go_back(stretches: list[_Stretch], step: int) -> float:
    """Cut off what lies behind a step; return the seconds of it."""
    lost = 0.0
    for stretch in stretches:
        if stretch.last > step:
            share = (stretch.last - max(step, stretch.first)) / (stretch.last - stretch.first)
            lost += stretch.seconds * share
            stretch.seconds *= 1 - share
            stretch.last = max(step, stretch.first)
    stretches[:] = [stretch for stretch in stretches if stretch.last > stretch.first]
    return lost


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0
