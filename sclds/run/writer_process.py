"""A rank's side of `sclds.run.writer`: the process is started with the first work that there is for it."""

import contextlib
import os
import select
import socket
import subprocess
import sys
from typing import Any

from sclds.run.writer import receive, send


class WriterProcess:
    """This rank's side of `sclds.run.writer`, which is started with the first work that it gets."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._working = False

    def start(self, work: str, arguments: dict[str, Any], memory: list[int] | None = None) -> None:
        """Have something done; what comes of it, a dead process too, is in `answer`."""
        assert not self._working, "one thing at a time"
        if self._connection is None:
            self._connection = self._spawn()
        self._working = True
        with contextlib.suppress(OSError):
            send(self._connection, {"work": work, "arguments": arguments}, memory or [])

    def _spawn(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-P", "-m", "sclds.run.writer", str(theirs.fileno()), str(os.getpid())]
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment)
        return ours

    def busy(self) -> bool:
        """Return whether there is work of which nothing has come yet."""
        if not self._working:
            return False
        assert self._connection is not None
        return not select.select([self._connection], [], [], 0)[0]

    def answer(self) -> tuple[Any, str | None]:
        """Wait for what comes of the work; return its result, and a fault if there is one."""
        if not self._working:
            return None, None
        assert self._connection is not None
        assert self._process is not None
        try:
            answer, _ = receive(self._connection)
        except EOFError:
            code = self._process.wait()
            ended = f"signal {-code}" if code < 0 else f"exit code {code}"
            return None, f"the process that writes, {self._process.pid}, died of {ended}"
        finally:
            self._working = False
        return answer.get("result"), answer.get("fault")

    def close(self) -> None:
        """End the process; what it has not finished stays unfinished."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            if self._working:
                self._process.kill()
            self._process.wait()
        self._connection = self._process = None
        self._working = False
