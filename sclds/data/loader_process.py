"""Batches made in a process of its own, so that decoding, text and packing take nothing of this one's interpreter lock.

A batch travels as one block of memory that has no name (memfd): the kernel frees it with the last process that holds
it, so that nothing is left behind whatever is killed, and however. The maker ends with its connection.
"""

import contextlib
import mmap
import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import cast

import torch

from sclds.batch import Batch
from sclds.config.errors import UserError

_PATIENCE = 5.0
"""Seconds for which the maker may finish what it does, once nobody wants it."""


def made_apart(make: Callable[[], Iterator[Batch]]) -> Iterator[Batch]:
    """Yield what `make` yields in a new process, bit for bit; one batch is asked for at a time.

    Args:
        make: Pickled, and called there.

    Raises:
        UserError: Where `make` raises it.
        RuntimeError: The process fails or dies.
    """
    context = multiprocessing.get_context("spawn")
    own, other = context.Pipe()
    maker = context.Process(target=_serve, args=(other, make), name="loader", daemon=True)
    maker.start()
    other.close()
    try:
        while True:
            try:
                own.send_bytes(b"next")
                skeleton = pickle.loads(own.recv_bytes())
            except (EOFError, OSError) as fault:
                maker.join(_PATIENCE)
                raise RuntimeError(f"the loader's process {maker.pid} died (exit code {maker.exitcode})") from fault
            if skeleton is None:
                return
            if isinstance(skeleton, BaseException):
                raise skeleton
            yield cast(Batch, skeleton.filled(_received(own)))
    finally:
        own.close()
        maker.join(_PATIENCE)
        if maker.is_alive():
            maker.kill()
            maker.join()


def _serve(connection: Connection, make: Callable[[], Iterator[Batch]]) -> None:
    """Make a batch for every request until nobody asks any more."""
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the run, which ends this process by its connection
        signal.signal(number, signal.SIG_IGN)
    batches = make()
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while connection.recv_bytes():
            try:
                batch = next(batches, None)
            except UserError as fault:
                connection.send_bytes(pickle.dumps(fault))
                break
            if batch is None:
                connection.send_bytes(pickle.dumps(None))
                break
            block, skeleton = batch.emptied()
            connection.send_bytes(pickle.dumps(skeleton))
            _send(connection, block)
    batches.close()  # type: ignore[attr-defined]


def _send(connection: Connection, block: torch.Tensor) -> None:
    handle = os.memfd_create("sclds-batch", os.MFD_CLOEXEC)
    try:
        os.ftruncate(handle, max(len(block), 1))
        memory = mmap.mmap(handle, 0)
        torch.frombuffer(memory, dtype=torch.uint8)[: len(block)].copy_(block)
        connection.send_bytes(str(len(block)).encode())
        send_handle(connection, handle, None)
    finally:
        os.close(handle)


def _received(connection: Connection) -> torch.Tensor:
    size, handle = int(connection.recv_bytes()), recv_handle(connection)
    try:
        memory = mmap.mmap(handle, 0)
    finally:
        os.close(handle)
    return torch.frombuffer(memory, dtype=torch.uint8)[:size]
