"""`events.jsonl`: what happened to a run, a line an event, by whichever of its processes saw it.

Metrics say how a run learns, events what it went through: starts, faults, restarts, and the seconds that they cost.
Nothing here is an input of training; `sclds.run.goodput` and the page read it.
"""

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

Kind = Literal[
    "start",
    "resume",
    "training",
    "checkpoint",
    "evaluation",
    "stop",
    "finish",
    "failure",
    "skipped_step",
    "bad_samples",
    "passed_over",
    "watchdog",
    "launcher",
    "lease",
    "restart",
    "gave_up",
    "spike",
    "corruption",
    "slow_rank",
    "other_data",
]
"""What can happen: the start of a process; a checkpoint loaded; the first step begun; a checkpoint written; held-out
sets measured; an orderly stop; the end; a fault that ended the run; a step without a finite gradient; samples set aside
since the event before; a checkpoint that was not taken; a wait over its limit; the launcher gone; a folder taken over,
or lost; a restart by `sclds launch`, or none any more; a loss out of its band; a bit that changed by itself; a
rank for which the others wait; training shards that are others than before."""
KINDS: tuple[str, ...] = get_args(Kind)
_YEAR_10000 = 253_402_300_800
"""Seconds since 1970: the first that a date cannot have."""
FAULTS = ("failure", "watchdog", "launcher", "corruption")
"""Kinds that say why a start ended before its time."""


@dataclass(frozen=True)
class Event:
    """One line."""

    time: float
    """Seconds since 1970, by the clock of `host`."""
    host: str
    rank: int | None
    """None for the process that starts and restarts a run."""
    step: int | None
    """Optimizer steps done; None where they are not known."""
    kind: str
    cause: str
    """A sentence or a clause for people."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Numbers that belong to the kind."""

    @property
    def date(self) -> str:
        """The time as people write it, UTC."""
        return datetime.fromtimestamp(self.time, UTC).isoformat(timespec="milliseconds")


class Events:
    """Appends to the file; safe for several threads, processes and hosts. What cannot be written ends no run.

    Args:
        path: The file.
        rank: Of this process; None for the one that starts the others.
        now: Gives the time; another one in tests.
    """

    def __init__(self, path: Path, rank: int | None, now: Callable[[], float] | None = None):
        self._path, self._rank = path, rank
        self._now = now or (lambda: datetime.now(UTC).timestamp())
        self._host = socket.gethostname()
        self.step: int | None = None
        """Optimizer steps done, for events that are not told which."""
        self.unwritten: str | None = None
        """Why the last event is not in the file, if it is not; every event is also said where it happens."""

    def write(self, kind: Kind, cause: str, step: int | None = None, **facts: Any) -> Event:
        """Append one event, whole or not at all, and force it onto the disk: the process may be about to end."""
        step = self.step if step is None else step
        event = Event(round(self._now(), 3), self._host, self._rank, step, kind, cause, facts)
        line = json.dumps(asdict(event), ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab+", buffering=0) as file:
                with contextlib.suppress(OSError):  # some network disks cannot lock
                    fcntl.flock(file, fcntl.LOCK_EX)
                file.write((b"\n" if _ends_in_half_a_line(file) else b"") + line)
                os.fsync(file.fileno())
            self.unwritten = None
        except OSError as fault:
            self.unwritten = f"{self._path} cannot be written ({fault.strerror or fault})"
        return event


def _ends_in_half_a_line(file: Any) -> bool:
    end = file.seek(0, os.SEEK_END)
    if not end:
        return False
    file.seek(end - 1)
    return bool(file.read(1) != b"\n")


def read_events(path: Path, problems: list[str] | None = None) -> list[Event]:
    """Return the events of a file in the order of its lines; empty if there is no file.

    Args:
        path: The file.
        problems: Is given a sentence on lines that are damaged and therefore left out.
    """
    try:
        content = path.read_bytes() if path.is_file() else b""
    except OSError as fault:
        if problems is not None:
            problems.append(f"{path.name} cannot be read ({fault.strerror})")
        return []
    texts = [text for text in content.split(b"\n") if text.strip()]
    found = [event for text in texts if (event := _event(text)) is not None]
    damaged = len(texts) - len(found)
    if damaged and problems is not None:
        problems.append(f"{path.name}: {damaged} damaged line{' is' if damaged == 1 else 's are'} left out")
    return found


def _event(text: bytes) -> Event | None:
    """Return the event that a line holds, or nothing if it holds none; unknown kinds and facts are kept."""
    try:
        tree = json.loads(text)
        event = Event(**tree)
    except (ValueError, TypeError, RecursionError):
        return None
    sound = (
        isinstance(event.time, int | float)
        and not isinstance(event.time, bool)
        and 0 <= event.time < _YEAR_10000
        and all(isinstance(text, str) for text in (event.host, event.kind, event.cause))
        and all(number is None or type(number) is int for number in (event.rank, event.step))
        and isinstance(event.facts, dict)
    )
    return event if sound else None
