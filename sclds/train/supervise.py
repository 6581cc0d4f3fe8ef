"""A run started again after a fault, from its newest sound checkpoint, as often as was allowed and while it helps.

The process that supervises is the launcher's parent: it sees the launcher end, whatever ended it, and what the run
wrote into `events.jsonl` says what that was. A fault of the user's, a stop that was asked for and the end of the run
end it; so does the same fault a second time without a newer checkpoint between.
"""

import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from sclds.run.checkpoints import newest_checkpoint
from sclds.run.events import FAULTS, Event, Events, read_events
from sclds.run.folder import RunFolder
from sclds.run.lease import wait_until_free
from sclds.train.hostfile import is_here

USER_ERROR = 2
"""Exit code of a fault that the user can correct."""
HOST_PATIENCE = 600.0
"""Seconds for which hosts that do not answer are waited for."""
_BETWEEN_LOOKS = 15.0


@dataclass(frozen=True)
class Restarts:
    """What is allowed.

    Args:
        most: Restarts.
        fewest_hosts: With which the run may go on while others do not answer; None wants all of them.
    """

    most: int
    fewest_hosts: int | None = None


@dataclass(frozen=True)
class Fault:
    """Why a start ended before its time."""

    kinds: tuple[str, ...]
    """By which two faults are the same."""
    sentence: str


def fault_of(code: int, events: Sequence[Event]) -> Fault | None:
    """Return the fault that a start ended with, or None if another one would end alike.

    Args:
        code: Exit code of the launcher: 0 also where a signal ended its process on a host.
        events: That the start wrote.
    """
    kinds = [event.kind for event in events]
    told = [event for event in events if event.kind in FAULTS]
    if code == USER_ERROR or any(event.facts.get("user") is True for event in told):
        return None
    if "finish" in kinds or ("stop" in kinds and "launcher" not in kinds):
        return None
    if code == 0 and "start" not in kinds:  # a run that is done shows its results, and writes nothing
        return None
    if not told:
        return Fault((f"exit code {code}",), f"its processes ended with exit code {code} and without a word")
    names = sorted({str(event.facts.get("type", event.kind)) for event in told})
    return Fault(tuple(names), told[0].cause)


class Supervisor:
    """Starts a run, and starts it again.

    Args:
        run_dir: The run folder.
        slots: Processes of each host.
        restarts: What is allowed.
        start: Starts the launcher on some of the hosts.
        fits: Whether the global batch divides over so many processes.
        say: Prints a sentence.
        answers: Whether a host can be reached; another one in tests.
    """

    def __init__(
        self,
        run_dir: Path,
        slots: Mapping[str, int],
        restarts: Restarts,
        start: Callable[[dict[str, int]], "subprocess.Popen[Any]"],
        fits: Callable[[int], bool],
        say: Callable[[str], None],
        answers: Callable[[str], bool] | None = None,
    ):
        self._folder, self._slots, self._restarts = RunFolder(run_dir), dict(slots), restarts
        self._start, self._fits, self._say = start, fits, say
        self._answers = answers or reachable
        self._events = Events(self._folder.events, None)
        self._launcher: subprocess.Popen[Any] | None = None
        self._told_to_stop = False

    def run(self) -> int:
        """Return the exit code of the last start, when no other one follows."""
        before = {number: signal.signal(number, self._pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            return self._starts()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _starts(self) -> int:
        hosts, earlier = dict(self._slots), None
        for number in range(self._restarts.most + 1):
            written = len(read_events(self._folder.events))
            self._launcher = self._start(hosts)
            code = self._launcher.wait()
            wait_until_free(self._folder.root, self._say)
            fault = fault_of(code, read_events(self._folder.events)[written:])
            if fault is None or self._told_to_stop:
                return code
            checkpoint = newest_checkpoint(self._folder.checkpoints)
            step = checkpoint.step if checkpoint else 0
            if (fault.kinds, step) == earlier:
                return self._give_up(code, step, f"the same fault twice, and no newer checkpoint: {fault.sentence}")
            if number == self._restarts.most:
                return self._give_up(code, step, f"{number} restarts were allowed: {fault.sentence}")
            earlier = fault.kinds, step
            left = self._hosts()
            if left is None:
                return self._give_up(code, step, "hosts do not answer, and the run may not go on without them")
            hosts = left
            if self._told_to_stop:
                return code
            gone = [host for host in self._slots if host not in hosts]
            without = f", without {', '.join(gone)}" if gone else ""
            self._tell(
                "restart",
                f"Restart {number + 1} of {self._restarts.most} from step {step}{without}: {fault.sentence}",
                step,
            )
        raise AssertionError("the loop returns")

    def _give_up(self, code: int, step: int, why: str) -> int:
        self._tell("gave_up", f"The run is not started again: {why}", step)
        return code or 1

    def _tell(self, kind: Any, sentence: str, step: int) -> None:
        self._say(sentence)
        self._events.write(kind, sentence, step)

    def _hosts(self) -> dict[str, int] | None:
        """Return the hosts to go on with: all, or fewer where that is allowed; None if too few answer for too long."""
        end = time.monotonic() + HOST_PATIENCE
        while True:
            answering = {host: n for host, n in self._slots.items() if len(self._slots) == 1 or self._answers(host)}
            enough = self._restarts.fewest_hosts is not None and len(answering) >= self._restarts.fewest_hosts
            if len(answering) == len(self._slots) or (enough and self._fits(sum(answering.values()))):
                return answering
            missing = ", ".join(host for host in self._slots if host not in answering)
            self._say(f"{missing} does not answer; looking again in {_BETWEEN_LOOKS:.0f} s")
            if self._told_to_stop or time.monotonic() >= end:
                return None
            time.sleep(_BETWEEN_LOOKS)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self._told_to_stop = True
        if self._launcher is not None and self._launcher.poll() is None:
            self._launcher.send_signal(number)


def reachable(host: str) -> bool:
    """Return whether a host answers over ssh within some seconds; this one does."""
    if is_here(host):
        return True
    command = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", host, "true"]
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
