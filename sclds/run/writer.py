"""The process that writes a rank's checkpoints to the disk while the rank trains: `python -m sclds.run.writer SOCKET`.

It is given files as anonymous memory (memfd), which has no name and is gone with the last process that holds it. It
knows neither torch nor what the bytes mean, and dies with the rank that started it: nothing is written into a run's
folder that nobody leads any more. Signals that end a job are the rank's matter, which ends this process when it has
no more use for it.
"""

import hashlib
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sclds.run.files import flush, write_atomically
from sclds.run.manifest import FileRecord, record_files, write_manifest
from sclds.run.processes import end_with_parent

_HEAD = 8
"""Bytes before a message that give its length."""
_MOST_FILES = 64
_BLOCK = 1 << 22


def send(connection: socket.socket, message: dict[str, Any], memory: Sequence[int] = ()) -> None:
    """Send a message, and the descriptors of the memory that it speaks of.

    Raises:
        OSError: The other side is gone.
    """
    content = json.dumps(message).encode()
    socket.send_fds(connection, [len(content).to_bytes(_HEAD, "little")], memory)
    connection.sendall(content)


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Return the next message, and descriptors that came with it, which are the caller's to close.

    Raises:
        EOFError: The other side is gone.
    """
    try:
        head, memory, *_ = socket.recv_fds(connection, _HEAD, _MOST_FILES)
        head += _exactly(connection, _HEAD - len(head)) if head else b""
        if not head:
            raise EOFError
        return json.loads(_exactly(connection, int.from_bytes(head, "little"))), memory
    except ConnectionError as fault:
        raise EOFError from fault


def _exactly(connection: socket.socket, size: int) -> bytes:
    content = bytearray()
    while len(content) < size:
        if not (part := connection.recv(min(size - len(content), _BLOCK))):
            raise EOFError
        content += part
    return bytes(content)


def write_files(folder: str, files: Sequence[tuple[str, int]], others: Sequence[str], memory: list[int]) -> Any:
    """Write files out of memory, flush them and those that lie there already, and return a record of each.

    Args:
        folder: That gets the files.
        files: Name in the folder and bytes of each.
        others: Names of files that were written without us.
        memory: Descriptors in the order of `files`.
    """
    records = {}
    for (name, size), descriptor in zip(files, memory, strict=True):
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        digest, place = hashlib.sha256(), 0
        with path.open("wb", buffering=0) as file:
            while place < size:
                block = memoryview(os.pread(descriptor, min(_BLOCK, size - place), place))
                digest.update(block)
                place += len(block)
                while block:
                    block = block[file.write(block) :]
            os.fsync(file.fileno())
        records[name] = FileRecord(size, digest.hexdigest())
    for name in others:
        flush(Path(folder) / name)
    records |= record_files(Path(folder), [Path(folder) / name for name in others])
    return {name: [record.size, record.sha256] for name, record in records.items()}


def complete(
    partial: str,
    records: dict[str, list[Any]],
    state: tuple[str, str],
    facts: dict[str, Any],
    best: str | None,
    remove: Sequence[str],
) -> None:
    """Make a checkpoint of a folder whose files are all flushed: state, manifest, its name; then remove old ones.

    Args:
        partial: The folder; its name without the suffix becomes the checkpoint's.
        records: Size and SHA-256 of every file, of all ranks.
        state: Name and content of the state file.
        facts: What the manifest tells beside its files.
        best: Name of the best checkpoint, for the file `best`.
        remove: Names of folders beside it that are not needed when it is complete.
    """
    folder, final = Path(partial), Path(partial).with_suffix("")
    write_atomically(folder / state[0], state[1])
    known = {name: FileRecord(*record) for name, record in records.items()}
    write_manifest(folder, known | record_files(folder, [folder / state[0]]), facts)
    for inner in [path for path in folder.rglob("*") if path.is_dir()]:
        flush(inner)
    shutil.rmtree(final, ignore_errors=True)
    folder.rename(final)
    write_atomically(final.parent / "latest", final.name)  # flushes the names in this folder too
    if best is not None:
        write_atomically(final.parent / "best", best)
    for name in remove:
        shutil.rmtree(final.parent / name)


_WORK: dict[str, Callable[..., Any]] = {"write": write_files, "complete": complete}


def serve(connection: socket.socket) -> None:
    """Do what the rank asks for, and answer with a result or a fault of the disk, until it closes its side."""
    while True:
        try:
            message, memory = receive(connection)
        except EOFError:
            return
        arguments = message["arguments"] | ({"memory": memory} if message["work"] == "write" else {})
        try:
            answer = {"result": _WORK[message["work"]](**arguments)}
        except OSError as fault:
            answer = {"fault": " ".join(str(fault).split())}
        finally:
            for descriptor in memory:
                os.close(descriptor)
        send(connection, answer)


def _die_with(parent: int) -> None:
    """Have the system kill this process when its parent dies."""
    end_with_parent(signal.SIGKILL)
    if os.getppid() != parent:  # it died before
        sys.exit(1)


def main(descriptor: int, parent: int) -> None:
    """Serve the rank of process `parent` at a socket that it left open."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _die_with(parent)
    with socket.socket(fileno=descriptor) as connection:
        serve(connection)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
