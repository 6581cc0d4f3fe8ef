"""One writer per run folder: a lease with a heartbeat, that also works on a file system shared by hosts.

The holder raises a counter in `lease.json` every few seconds. Whoever comes second reads who holds the folder. A holder
on this host is asked for by its process; one on another host counts as dead when its counter stands still, for which no
two clocks have to agree.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sclds.config.errors import UserError
from sclds.run.events import Events
from sclds.run.files import write_atomically
from sclds.run.processes import is_running, started_at

LEASE_FILE = "lease.json"
INTERVAL = 10.0
"""Seconds between heartbeats."""
PATIENCE = 4 * INTERVAL
"""Seconds for which a heartbeat on another host may stand still."""
_SETTLE = 1.0
"""Seconds after which a second taker's rename would be seen."""


class LeaseHeldError(UserError):
    """Another process writes into the folder."""


class Lease:
    """The right to write into a run folder, from `acquire` to `release`; held by rank 0.

    Args:
        folder: The run folder; made if it is not there.
        say: Prints a sentence.
        events: Of the run; they are given what becomes of the lease.
    """

    def __init__(self, folder: Path, say: Callable[[str], None], events: Events | None = None):
        self._path = folder / LEASE_FILE
        self._say, self._events = say, events
        self._own = {"host": socket.gethostname(), "process": os.getpid(), "started": started_at(os.getpid())}
        self._beats = 0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self.lost: str | None = None
        """Who took the folder over meanwhile, if anybody did; the run has to end."""

    def acquire(self) -> None:
        """Take the folder.

        Raises:
            LeaseHeldError: A running process holds it.
            OSError: The folder cannot be written.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        holder = self._read()
        if holder is not None and not self._is_own(holder):
            self._await_death(holder)
            self._tell(
                f"The lease of {self._path.parent} is taken over from {_name(holder)}, which does not run any more"
            )
        self._write()
        time.sleep(_SETTLE if holder is not None else 0)
        taken = self._read()
        if taken is None or not self._is_own(taken):
            raise LeaseHeldError(self._refusal(taken or {}))
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Give the folder free, unless somebody else has it by now."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            with contextlib.suppress(OSError):
                holder = self._read()
                if holder is not None and self._is_own(holder):
                    self._path.unlink()

    def _tell(self, sentence: str) -> None:
        self._say(sentence)
        if self._events is not None:
            self._events.write("lease", sentence)

    def _await_death(self, holder: dict[str, Any]) -> None:
        """Return when the holder is dead; raise while it lives."""
        if holder.get("host") == self._own["host"]:
            if is_running(holder.get("process"), holder.get("started")):
                raise LeaseHeldError(self._refusal(holder))
            return
        self._say(f"{self._path.parent} is held by {_name(holder)}; waiting {PATIENCE:.0f} s for a sign of life")
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            time.sleep(min(1.0, PATIENCE / 4))
            if self._read() != holder:
                raise LeaseHeldError(self._refusal(self._read() or holder))

    def _beat(self) -> None:
        while not self._ended.wait(INTERVAL):
            try:
                holder = self._read()
                if holder is not None and not self._is_own(holder):
                    self.lost = _name(holder)
                    if self._events is not None:
                        self._events.write("lease", f"the run folder was taken over by {self.lost}")
                    return
                self._write()
            except OSError:  # a full disk for now; the next beat tries again, and a checkpoint would say so
                continue

    def _read(self) -> dict[str, Any] | None:
        """Return the holder; None if nobody holds the folder. A damaged lease is of a holder without a name."""
        try:
            holder = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:
            return {}
        return holder if isinstance(holder, dict) else {}

    def _write(self) -> None:
        self._beats += 1
        write_atomically(self._path, json.dumps(self._own | {"beats": self._beats}) + "\n")

    def _is_own(self, holder: dict[str, Any]) -> bool:
        return all(holder.get(key) == value for key, value in self._own.items())

    def _refusal(self, holder: dict[str, Any]) -> str:
        return (
            f"{self._path.parent} is written by {_name(holder)}; wait for its end, stop it, or give this run another "
            f"run_dir"
        )


def wait_until_free(folder: Path, say: Callable[[str], None], limit: float = 900.0) -> None:
    """Return when nobody holds a run folder any more, or after `limit` seconds; a dead holder's lease counts as none.

    Args:
        folder: The run folder.
        say: Gets a sentence if somebody holds it.
        limit: Seconds, in which a run that was told to end has saved.
    """
    lease, seen = Lease(folder, say), None
    begun = still_since = time.monotonic()
    while time.monotonic() - begun < limit:
        holder = lease._read()
        if holder is None:
            return
        here = holder.get("host") == socket.gethostname()
        if here and not is_running(holder.get("process"), holder.get("started")):
            return
        if seen is None:
            say(f"Waiting for {_name(holder)}, which still holds {folder}")
        if holder != seen:
            seen, still_since = holder, time.monotonic()
        elif not here and time.monotonic() - still_since > PATIENCE:
            return
        time.sleep(0.5)


def _name(holder: dict[str, Any]) -> str:
    return f"process {holder.get('process', '?')} on {holder.get('host', 'an unknown host')}"
