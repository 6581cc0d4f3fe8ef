"""DeepSpeed's runner with an exit code that tells how the run ended: `python -m sclds.train.runner [RUN_FOLDER] …`.

DeepSpeed's own leaves 0 when the program that it started (its launcher on this host, or pdsh) dies of a signal, leaves
1 without waiting when it is told to stop, and lets pdsh live on when it is killed. And pdsh, when a signal ends it,
leaves its remote shells behind, whose ends on the hosts then train on: they are this process's to end.
"""

import contextlib
import ctypes
import re
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from types import FrameType
from typing import Any

import psutil
from deepspeed.launcher import runner

from sclds.run.folder import RunFolder
from sclds.run.lease import LEASE_FILE
from sclds.run.processes import end_with_parent
from sclds.train.launcher import DEEPSPEED_ON_HOST, ON_HOST, stop_seconds

OTHERS = 20.0
"""Seconds for which the other hosts of a run may go on when one has failed; most find it out themselves."""
FAILED = 1
_TOLD = (0, FAILED, 2)
"""Exit codes that say something; a worker's signal comes through ssh as another one."""
_HOST_ENDED = re.compile(rb"pdsh@\S+: (\S+): ssh exited with exit code (\d+)")
_ADOPT = 36
"""PR_SET_CHILD_SUBREAPER of Linux, `man 2 prctl`: what loses its parent becomes our child."""


class Launched(subprocess.Popen[Any]):
    """What the runner starts, in a process group of its own, so that one Ctrl-C is one signal, and not outliving it."""

    stopped = False
    """Whether this process was asked to stop the run."""
    handles_signals = False

    def __init__(self, words: Any, **settings: Any):
        if not isinstance(words, str):
            words = [ON_HOST if word == DEEPSPEED_ON_HOST else word for word in words]
        self._over_hosts = over_hosts = Launched.handles_signals and words[0] == "pdsh"
        if Launched.handles_signals:
            settings |= {
                "stdin": subprocess.DEVNULL,
                "process_group": 0,
                "preexec_fn": partial(end_with_parent, signal.SIGTERM),
            }
        if over_hosts:
            ctypes.CDLL(None).prctl(_ADOPT, 1)
        super().__init__(words, **settings | ({"stderr": subprocess.PIPE} if over_hosts else {}))
        self._failed: tuple[str, int] | None = None
        if over_hosts:
            self._reader = threading.Thread(target=self._pass_on, name="pdsh", daemon=True)
            self._reader.start()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; one by a signal becomes a sentence and a failure."""
        if Launched.handles_signals:  # the runner has set its own just before
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._stop)
        code = super().wait(timeout)
        if self._over_hosts:
            _end_remote_shells()
        if self._failed is not None:
            self._reader.join()
            self.returncode = code = self._failed[1]
        elif code < 0:
            if not Launched.stopped:
                name = signal.Signals(-code).name
                _tell(f"error: what started the processes of this run (process {self.pid}) was ended by {name}")
            self.returncode = code = FAILED
        return code

    def _pass_on(self) -> None:
        """Print what pdsh says; when it says that a host failed, stop those that wait for it."""
        assert self.stderr is not None
        for line in self.stderr:
            sys.stderr.buffer.write(line)
            sys.stderr.flush()
            ended = _HOST_ENDED.match(line)
            if ended and self._failed is None and not Launched.stopped:
                self._failed = ended[1].decode(), int(ended[2])
                limit = threading.Timer(OTHERS, self._stop_others)
                limit.daemon = True
                limit.start()

    def _stop_others(self) -> None:
        if self.poll() is None and self._failed is not None:
            host, code = self._failed
            _tell(f"error: {host} ended with exit code {code}, as its own message says; the other hosts are stopped")
            self.send_signal(signal.SIGTERM)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if not Launched.stopped:
            Launched.stopped = True
            _tell("Stopping: the run ends its step and saves")
            self.send_signal(signal.SIGTERM)


def main(words: list[str]) -> int:
    """Run DeepSpeed's runner and return the run's exit code.

    Args:
        words: The runner's, after the run folder; without one, a stop signal is left to the runner.
    """
    folder = RunFolder(words.pop(0)) if words and not words[0].startswith("-") else None
    before = len(folder.read_starts()) if folder is not None else 0
    Launched.handles_signals = folder is not None
    runner.subprocess.Popen = Launched  # nothing else runs in this process
    try:
        runner.main(words)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else FAILED
    except (subprocess.CalledProcessError, RuntimeError, ValueError) as fault:
        _tell(f"error: {fault}")
        return 2
    if Launched.stopped and folder is not None:
        return 0 if _ended_orderly(folder, before) else FAILED
    return code if code in _TOLD else FAILED


def _ended_orderly(folder: RunFolder, before: int) -> bool:
    """Wait until nobody holds the run folder, and return whether the start that did has saved, or had nothing to."""
    end = time.monotonic() + stop_seconds()
    while (folder.root / LEASE_FILE).exists() and time.monotonic() < end:
        time.sleep(0.2)
    starts = folder.read_starts()
    if len(starts) == before:
        _tell("Stopped before training began: there was nothing to save, and the same command starts again")
        return True
    if starts[-1].outcome in ("stopped", "finished"):
        return True
    _tell(f"error: the run was told to stop and did not save; {folder.environment} says what is known")
    return False


def _end_remote_shells() -> None:
    """End what pdsh left behind; with a remote shell its connection ends, which the workers of that host see."""
    for left in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            left.terminate()


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
