"""Processes of this host by number and start, so that a number given out again is not taken for the old process."""

import ctypes
import os
import signal
from pathlib import Path
from typing import NamedTuple

_PR_SET_PDEATHSIG = 1
"""Of prctl(2): a signal to get when the parent dies."""


class Process(NamedTuple):
    """A process of this host."""

    number: int
    started: int
    """Clock ticks from boot to its start."""
    parent: int
    command: tuple[str, ...]
    """Its arguments; empty for one that has ended and waits for its parent."""


def process(number: int) -> Process | None:
    """Return a process that runs, or None; one that has ended and waits for its parent does not run."""
    folder = Path("/proc") / str(number)
    try:
        # the name in parentheses may hold spaces and parentheses of its own
        state, parent, *rest = (
            (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
        command = (folder / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")[:-1]
    except (OSError, ValueError):
        return None
    return None if state in "ZX" else Process(number, int(rest[17]), int(parent), tuple(command))


def started_at(number: int) -> int | None:
    """Return the clock ticks from boot to a process's start; None if it does not run."""
    found = process(number)
    return None if found is None else found.started


def age() -> float:
    """Return the seconds since this process was started; 0 where the system does not say."""
    try:
        uptime = float(Path("/proc/uptime").read_text(encoding="utf-8").split()[0])
        started = started_at(os.getpid())
        return 0.0 if started is None else max(0.0, uptime - started / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError):
        return 0.0


def is_running(number: object, started: object) -> bool:
    """Return whether the process of this number that started then still runs."""
    return isinstance(number, int) and started is not None and started_at(number) == started


def ancestors(number: int) -> list[Process]:
    """Return the processes above one, its parent first."""
    found, child = [], process(number)
    while child is not None and child.parent > 1:
        child = process(child.parent)
        if child is not None:
            found.append(child)
    return found


def end_with_parent(number: signal.Signals) -> None:
    """Have the system send this process a signal when its parent dies; as `preexec_fn`, or at a process's start."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
