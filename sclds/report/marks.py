"""What happened to a run, as marks on its throughput: checkpoints, restarts, faults, and stalls out of its rates."""

import statistics
from collections.abc import Sequence
from typing import Any

from sclds.report.chart import Mark
from sclds.report.run_contents import Run
from sclds.report.sampled import STALL_SHARE
from sclds.run.events import Event

DATA_SHARE = 0.5
"""Of a step's time: from there on its stall is one of data."""
TROUBLE = ("failure", "watchdog", "launcher", "corruption", "spike", "skipped_step", "gave_up", "slow_rank", "stop")
"""Kinds of events that are marked as faults."""
ORDER = ("restart", "fault", "stall", "checkpoint")
TITLES = {"restart": "restart", "fault": "fault or stop", "stall": "stall", "checkpoint": "checkpoint"}


def marks_of(run: Run) -> list[Mark]:
    """Return what happened, by step."""
    return sorted([*_of_events(run.events), *stalls_of(run)], key=lambda mark: (mark.x, ORDER.index(mark.kind)))


def _of_events(events: Sequence[Event]) -> list[Mark]:
    """Return the marks of events; a restart stands where its steps begin."""
    marks: list[Mark] = []
    starts = 0
    for event in events:
        if event.kind == "start" and event.rank == 0:
            starts += 1
        elif event.kind == "training" and event.rank == 0 and starts > 1 and event.step is not None:
            marks.append(Mark("restart", event.step, f"restart {starts - 1} at step {event.step:,}"))
        elif event.kind == "checkpoint" and event.step is not None:
            marks.append(Mark("checkpoint", event.step, f"checkpoint: {event.cause}"))
        elif event.kind in TROUBLE and event.step is not None:
            marks.append(Mark("fault", event.step, f"{event.kind.replace('_', ' ')}: {event.cause}"))
    return marks


def stalls_of(run: Run) -> list[Mark]:
    """Return the stretches of lines whose rate is below half of the median, each at its slowest line.

    The first line after each start, which warms up, is none.
    """
    timed = [line for line in run.metrics if line.get("samples_per_second")]
    if len(timed) < 3:
        return []
    median = statistics.median(rate for line in run.evenly if (rate := line.get("samples_per_second")))
    begun = {event.step for event in run.events if event.kind == "training" and event.step is not None} | {0}
    slow: list[list[dict[str, Any]]] = []
    before: dict[str, Any] = {"step": 0}
    stalled = False
    for line in timed:
        warming = any(before["step"] <= step < line["step"] for step in begun)
        if line["samples_per_second"] < STALL_SHARE * median and not warming:
            if not stalled:
                slow.append([])
            slow[-1].append(line)
            stalled = True
        else:
            stalled = False
        before = line
    return [_stall(stretch, median, run.events) for stretch in slow]


def _stall(stretch: Sequence[dict[str, Any]], median: float, events: Sequence[Event]) -> Mark:
    worst = min(stretch, key=lambda line: line["samples_per_second"])
    first, last = stretch[0]["step"], stretch[-1]["step"]
    where = f"step {first:,}" if first == last else f"steps {first:,} to {last:,}"
    rate = worst["samples_per_second"]
    return Mark(
        "stall",
        worst["step"],
        f"stall at {where}: {rate:,.3g} samples/s, {rate / median:.0%} of the median; {_cause(worst, events)}",
    )


def _cause(line: dict[str, Any], events: Sequence[Event]) -> str:
    """Return what the line itself and the events beside it say of the time."""
    seconds = line.get("seconds") or {}
    total = seconds.get("total") or 0.0
    if total and (seconds.get("data") or 0.0) / total > DATA_SHARE:
        return "it waited for data"
    near = [event.kind for event in events if event.step is not None and abs(event.step - line["step"]) <= 2]
    for kind, cause in (("checkpoint", "beside a checkpoint"), ("evaluation", "beside a held-out measurement")):
        if kind in near:
            return cause
    return "its data was there: look for other work on the machine, or the network"
