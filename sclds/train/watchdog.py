"""No wait without a limit: a thread that ends this process when a phase of the run takes longer than its setting.

Ranks wait for one another in every step, so all of them run into the limit together, also those at no fault. Each one
writes its phase into the store that the ranks met through; at the end the first rank that still lives names those that
gave no sign of life, or are in another phase than the rest.
"""

import contextlib
import faulthandler
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from sclds.run.events import Events
from sclds.train.meeting import meeting_place, meeting_problem

INTERVAL = 2.0
"""Seconds between signs of life."""
_SILENT = 4 * INTERVAL
"""Seconds without a sign of life after which a rank counts as silent."""
_ANSWER = 10.0
"""Seconds that rank 0 has to answer within, where the signs of all ranks lie."""
_NAMED = 8
"""Most ranks that a message names."""


class Store(Protocol):
    """The part of torch's stores that is used here."""

    def set(self, key: str, value: str) -> None:
        """Write a value."""

    def multi_get(self, keys: list[str]) -> list[bytes]:
        """Return the values of keys that have one, waiting for those that have none."""


@dataclass(frozen=True)
class Sign:
    """What a rank says of itself every few seconds."""

    host: str
    phase: str
    beats: int


class Watchdog:
    """Ends the process with a reason when a phase is over its limit.

    Args:
        rank: Of this process.
        world_size: Number of processes.
        end: Called with the exit code; another one in tests.
        record: Writes what collectives were under way, and returns the file; None where it keeps none.
        events: Of the run; they are given why it ended.
    """

    def __init__(
        self,
        rank: int,
        world_size: int,
        end: Callable[[int], None] = os._exit,
        record: Callable[[], Path | None] = lambda: None,
        events: Events | None = None,
    ):
        self._rank, self._world_size, self._end, self._record = rank, world_size, end, record
        self._host, self._events = socket.gethostname(), events
        self._store: Store | None = None
        self._phase: tuple[str, float, float] | None = None
        self._beats = 0
        self._ended = threading.Event()

    def meet(self, store: Store) -> None:
        """Give signs of life through the store that all ranks share from now on."""
        self._give_sign(store)
        self._store = store

    def __enter__(self) -> "Watchdog":
        threading.Thread(target=self._show_life, name="signs of life", daemon=True).start()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()

    @contextlib.contextmanager
    def phase(self, name: str, key: str, limit: float) -> Iterator[None]:
        """Hold a part of the run to its limit; phases may lie inside one another, and the innermost counts.

        Args:
            name: As the message calls it.
            key: Setting that holds the limit.
            limit: Seconds.
        """
        outer = self._phase
        self._phase = (f"{name} ({key}={limit:g})", time.monotonic(), limit)
        try:
            yield
        finally:
            self._phase = outer if outer is None else (outer[0], time.monotonic(), outer[2])

    def _show_life(self) -> None:
        while not self._ended.wait(INTERVAL):
            if self._store is not None:
                with contextlib.suppress(RuntimeError):  # rank 0, which holds the store, may be gone
                    self._give_sign(self._store)

    def _watch(self) -> None:
        """Hold phases to their limits, asking nobody before one is over: a rank 0 that is stopped never answers."""
        while not self._ended.wait(INTERVAL):
            phase = self._phase
            if phase is not None and time.monotonic() - phase[1] > phase[2]:
                self._give_up(*phase)
                return

    def _give_sign(self, store: Store) -> None:
        self._beats += 1
        phase = self._phase[0] if self._phase else "between phases"
        store.set(_key(self._rank), json.dumps(asdict(Sign(self._host, phase, self._beats))))

    def _give_up(self, phase: str, since: float, limit: float) -> None:
        reason = f"rank {self._rank} on {self._host} waited {time.monotonic() - since:.0f} s in {phase}"
        others = self._others()
        if self._events is not None:
            self._events.write("watchdog", f"{reason}; {others}")
        print(f"error: {reason}; {others}", file=sys.stderr)  # noqa: T201
        print(f"rank {self._rank}: this process ends, its threads were at:", file=sys.stderr, flush=True)  # noqa: T201
        with contextlib.suppress(OSError, ValueError):  # no file descriptor behind a captured stderr
            faulthandler.dump_traceback(sys.stderr, all_threads=True)
        file = self._record()
        if file is not None:
            print(f"rank {self._rank}: its last collectives are in {file}", file=sys.stderr, flush=True)  # noqa: T201
        self._end(1)

    def _others(self) -> str:
        """Return what is known of the other ranks."""
        if self._store is None:
            why = meeting_problem() or "rank 0 is there: look for a process that failed or was not started"
            return f"the {self._world_size} processes have not met at {meeting_place()}; {why}"
        found: list[str] = []
        store = self._store
        asking = threading.Thread(target=lambda: found.append(self._asked(store)), daemon=True)
        asking.start()
        asking.join(_SILENT + _ANSWER)
        if found:
            return found[0]
        why = meeting_problem() or "it is stopped or hangs, or its host does"
        return f"no sign of life from rank 0 at {meeting_place()}, which the others ask: {why}"

    def _asked(self, store: Store) -> str:
        try:
            before = self._signs(store)
            time.sleep(_SILENT)
            return compared(before, self._signs(store), self._rank)
        except RuntimeError:
            return f"rank 0, which the others ask, does not answer; {meeting_problem() or 'it is about to end'}"

    def _signs(self, store: Store) -> dict[int, Sign]:
        with contextlib.suppress(RuntimeError):
            self._give_sign(store)
        values = store.multi_get([_key(rank) for rank in range(self._world_size)])
        return {rank: Sign(**json.loads(value)) for rank, value in enumerate(values)}


def compared(before: Mapping[int, Sign], after: Mapping[int, Sign], own: int) -> str:
    """Return which ranks hold the others up, out of two looks at their signs of life.

    Args:
        before: Sign of every rank.
        after: The same some seconds later.
        own: Rank that asks, which waits for the others.
    """
    silent = [rank for rank in after if after[rank].beats == before[rank].beats and rank != own]
    if silent:
        return f"no sign of life from {_named(silent, after)}"
    apart = [rank for rank in after if after[rank].phase != after[own].phase]
    if apart:
        return f"others are elsewhere: {_named(apart, after)}"
    return "all ranks give signs of life in the same phase: a link between hosts may be down, or the limit too short"


def _named(ranks: Sequence[int], signs: Mapping[int, Sign]) -> str:
    shown = ", ".join(f"rank {rank} on {signs[rank].host} (last in {signs[rank].phase})" for rank in ranks[:_NAMED])
    return shown + (f" and {len(ranks) - _NAMED} more" if len(ranks) > _NAMED else "")


def _key(rank: int) -> str:
    return f"sclds/watchdog/{rank}"
