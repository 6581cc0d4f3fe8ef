"""Workers end with their launcher: a thread that watches the processes which started this one.

DeepSpeed's launcher dies of a signal without its workers, which would train on for hours. Here each worker notes its
launchers at its start, and asks for a stop as soon as one of them is gone: the run saves and ends.
"""

import contextlib
import itertools
import os
import select
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import PurePath

from sclds.run.events import Events
from sclds.run.processes import Process, ancestors, is_running

INTERVAL = 1.0
"""Seconds between looks."""
STOP_SECONDS = "SCLDS_STOP_SECONDS"
"""Variable by which `sclds launch` tells launchers the limits of a run: of a step and of a checkpoint together."""
GRACE = 600.0
"""Those seconds where nobody tells them."""
_SUPERVISOR = "sclds launch"
_RUNNERS = ("sclds.train.runner", "deepspeed", "deepspeed.launcher.runner", "torchrun", "torch.distributed.run")
_LAUNCHERS = (_SUPERVISOR, *_RUNNERS)
DEEPSPEED_ON_HOST, ON_HOST = "deepspeed.launcher.launch", "sclds.train.on_host"
"""What starts the processes of one host: DeepSpeed's module, and ours around it."""


def watched_launchers(chain: Sequence[Process]) -> list[Process]:
    """Return which of the processes above a worker have to live as long as it does.

    These are all up to the topmost launcher; where DeepSpeed's process on each host has no launcher above it on that
    host, all up to the remote shell's server, which ends with the connection. A shell above the launcher may end, as
    under nohup.

    Args:
        chain: The processes above a worker, its parent first.
    """
    names = [_launcher_name(one) for one in chain]
    topmost = max((place for place, name in enumerate(names) if name in _LAUNCHERS), default=-1)
    if topmost < 0 and ON_HOST in names:
        servers = (place for place, one in enumerate(chain) if _is_ssh_server(one))
        topmost = next(servers, names.index(ON_HOST))
    return list(chain[: topmost + 1])


def output_is_closed() -> bool:
    """Return whether nobody can read this process's output any more.

    A killed pdsh leaves its `ssh` behind, which keeps the connection; it is told of nothing until something is printed,
    as rank 0 does, and then closes this end.
    """
    look = select.poll()
    look.register(1, 0)  # errors are told of without asking
    return any(event & select.POLLERR for _, event in look.poll(0))


def _is_ssh_server(one: Process) -> bool:
    return bool(one.command) and "sshd" in one.command[0]


def _launcher_name(one: Process) -> str:
    """Return which launcher a process is, as a module or command; empty for anything else."""
    words = [PurePath(argument).name for argument in one.command[:4]]
    if ("sclds", "launch") in itertools.pairwise(words):
        return _SUPERVISOR
    for argument in one.command[:4]:
        if argument.endswith("deepspeed/launcher/launch.py") or argument in (DEEPSPEED_ON_HOST, ON_HOST):
            return ON_HOST
        if argument in _LAUNCHERS:
            return argument
        if PurePath(argument).name in _LAUNCHERS:
            return PurePath(argument).name
    return ""


def stop_seconds() -> float:
    """Return the seconds that a run which is told to stop has, as far as this launcher was told."""
    given = os.environ.get(STOP_SECONDS, "")
    return float(given) if given.isdecimal() else GRACE


class LauncherWatch:
    """Asks this process to stop when one of its launchers is gone; without a launcher it does nothing.

    Args:
        events: Of the run; they are told of it.
        grace: Seconds for the stop and its checkpoint, before the process ends all the same.
        ends: What the process does then, as a clause.
    """

    def __init__(
        self, events: Events | None = None, grace: float = GRACE, ends: str = "this run saves and stops"
    ) -> None:
        self._events, self._grace, self._ends = events, grace, ends
        self._watched = watched_launchers(ancestors(os.getpid()))
        self._over_ssh = bool(self._watched) and _is_ssh_server(self._watched[-1])
        self._ended = threading.Event()

    def __enter__(self) -> "LauncherWatch":
        if self._watched:
            threading.Thread(target=self._watch, name="launcher", daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(INTERVAL):
            gone = [one for one in self._watched if not is_running(one.number, one.started)]
            if gone or (self._over_ssh and output_is_closed()):
                reason = "the launcher is gone: nobody reads what this remote shell prints"
                if gone:
                    name = PurePath(_launcher_name(gone[0]) or gone[0].command[0]).name
                    reason = f"the launcher ({name}, process {gone[0].number}) is gone"
                _tell(f"error: {reason}; {self._ends}")
                if self._events is not None:
                    self._events.write("launcher", reason)
                os.kill(os.getpid(), signal.SIGTERM)
                if not self._ended.wait(self._grace):
                    _tell(
                        f"error: no stop within {self._grace:.0f} s of the launcher's end; the process ends without "
                        f"saving"
                    )
                    os._exit(1)
                return


def _tell(text: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone with the launcher
        print(text, file=sys.stderr, flush=True)  # noqa: T201
