"""A rank's part of a variant: a process that ends with the one that started it, and with its fellows.

Each rank starts its own, and knows first when that fails; the others' would wait for it where processes meet.
"""

import json
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Protocol

from sclds.config.errors import UserError
from sclds.run.processes import end_with_parent

INTERVAL = 0.5
"""Seconds between looks at the other ranks."""
EXIT_USER = 2
"""Exit code of a process that refused what its user gave."""
_LATER = 60.0
"""Seconds by which other ranks may be later with what they know."""


class Store(Protocol):
    """The part of torch's stores that is used here."""

    def set(self, key: str, value: str) -> None:
        """Write a value."""

    def get(self, key: str) -> bytes:
        """Return a value."""

    def add(self, key: str, amount: int) -> int:
        """Add to a counter and return it."""

    def check(self, keys: list[str]) -> bool:
        """Return whether all keys have a value."""

    def wait(self, keys: list[str], timeout: timedelta) -> None:
        """Wait until all keys have a value."""


@dataclass(frozen=True)
class Outcome:
    """How a rank's process ended.

    Args:
        order: Of failures, the first is 1: those that follow are mostly of processes that lost it; 0 for success.
        why: A clause; empty where the process itself said nothing.
    """

    order: int = 0
    why: str = ""


class Ranks:
    """What ranks tell one another of the processes that each of them starts.

    Args:
        store: That all ranks share; None for a process alone.
        rank: Of this process.
        world_size: Number of processes.
    """

    def __init__(self, store: Store | None = None, rank: int = 0, world_size: int = 1):
        self._store, self._rank, self._world_size = store, rank, world_size

    def has_failed(self, number: int) -> bool:
        """Return whether a rank's process of the run of this number has failed."""
        return self._store is not None and self._store.check([f"{number}/failures"])

    def agree(self, number: int, failed: bool, why: str, limit: float) -> str | None:
        """Tell the others how the own process ended; return, on all ranks alike, why the run failed.

        Args:
            number: Of the run.
            failed: The own process has.
            why: As `Outcome` has it.
            limit: Seconds that the others' processes may take.

        Raises:
            UserError: A rank does not answer.
        """
        if self._store is None:
            return why or "it was refused" if failed else None
        try:
            own = Outcome(self._store.add(f"{number}/failures", 1), why) if failed else Outcome()
            self._store.set(f"{number}/{self._rank}", json.dumps(asdict(own)))
            keys = [f"{number}/{rank}" for rank in range(self._world_size)]
            self._store.wait(keys, timedelta(seconds=limit + _LATER))
            outcomes = [Outcome(**json.loads(self._store.get(key))) for key in keys]
        except RuntimeError as fault:
            raise UserError("another process of this comparison is gone; its own output says why") from fault
        failures = [outcome for outcome in outcomes if outcome.order]
        first = min(failures, key=lambda one: (not one.why, one.order), default=None)
        return None if first is None else first.why or "it was refused"

    def part(self) -> None:
        """Let the first rank, which holds the store, not go before all have read there."""
        if self._store is None:
            return
        self._store.add("parted", 1)
        while self._rank == 0 and self._store.add("parted", 0) < self._world_size:
            time.sleep(INTERVAL)


def run_part(
    command: Sequence[str], environment: Mapping[str, str], limit: float, number: int, ranks: Ranks
) -> str | None:
    """Run this rank's process of a variant; return, on all ranks alike, why the variant did not succeed.

    Args:
        command: That is run.
        environment: Its environment.
        limit: Seconds after which it is given up.
        number: Of the run, the same on all ranks.
        ranks: The others.

    Raises:
        UserError: A rank does not answer.
    """
    settings: dict[str, Any] = {"encoding": "utf-8", "errors": "replace", "env": dict(environment)}
    end, failed, why = time.monotonic() + limit, True, ""
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=partial(end_with_parent, signal.SIGKILL),
        **settings,
    ) as process:
        try:
            while not ranks.has_failed(number):
                try:
                    stderr = process.communicate(timeout=INTERVAL)[1]
                except subprocess.TimeoutExpired:
                    if time.monotonic() < end:
                        continue
                    why = f"it did not end within {limit:g} s"
                else:
                    failed = process.returncode != 0
                    why = reason(stderr, process.returncode) if failed else ""
                break
        finally:
            process.kill()
    return ranks.agree(number, failed, why, limit)


def reason(stderr: str, code: int) -> str:
    """Return in one sentence why a process failed: its signal, what it told its user, or its last line.

    Empty where it was refused as all processes of its host are, of which one says why.
    """
    if code < 0:
        return f"it was ended by {signal.Signals(-code).name}"
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    told = next((n for n, line in enumerate(lines) if line.startswith("error: ")), None)
    if told is not None:
        listed = lines[told + 1 : told + 2]  # problems stand as a list below their heading
        if listed and listed[0].startswith("- "):
            return listed[0].removeprefix("- ")
        return lines[told].removeprefix("error: ")
    if code == EXIT_USER:
        return ""
    return lines[-1] if lines else f"it ended with exit code {code}"
