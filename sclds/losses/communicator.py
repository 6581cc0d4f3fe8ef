"""What the losses need of a process group, and the single process that needs none."""

import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]


class Communicator(Protocol):
    """All processes of a run."""

    rank: int
    world_size: int

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Return (W, ...) from tensors of the same shape on every rank."""
        ...

    def start_all_gather(self, tensor: Tensor) -> Callable[[], Tensor]:
        """Start `all_gather` and return what waits for it: on a GPU its stream does, the host goes on.

        `tensor` must not change before; ranks start all their collectives in the same order.
        """
        ...

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over ranks."""
        ...

    def gather_counts(self, counts: Sequence[int]) -> Ints:
        """Return (W, k) from as many numbers on every rank, from host to host: no device takes part or waits."""
        ...


class SingleProcess:
    """A world of one."""

    rank = 0
    world_size = 1

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Return the tensor with a leading axis of one."""
        return tensor[None]

    def start_all_gather(self, tensor: Tensor) -> Callable[[], Tensor]:
        """Return what gives the tensor with a leading axis of one."""
        return lambda: tensor[None]

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Return the tensor."""
        return tensor

    def gather_counts(self, counts: Sequence[int]) -> Ints:
        """Return the numbers with a leading axis of one."""
        return np.array([counts], np.int64)


def gather_rows(tensors: Sequence[Tensor], lengths: Ints, communicator: Communicator) -> list[Tensor]:
    """Gather tensors whose first axis differs between ranks and wait for them, see `start_gather_rows`."""
    return start_gather_rows(tensors, lengths, communicator)()


def start_gather_rows(
    tensors: Sequence[Tensor], lengths: Ints, communicator: Communicator
) -> Callable[[], list[Tensor]]:
    """Send tensors whose first axis differs between ranks, all of them in one message, without asking the device.

    Nothing here is a loop over ranks: each tensor has the room of the longest rank's, and rows that no rank filled are
    left out by one index, where there are any.

    Args:
        tensors: T of one dtype and device; every rank passes as many, equal in all axes but the first.
        lengths: (W, T) rows of every rank's tensors, known on the host, see `Communicator.gather_counts`.
        communicator: The processes.

    Returns:
        What waits for the message, and gives for every tensor the rows of all ranks, in rank order.
    """
    most = lengths.max(axis=0).tolist()
    widths = [math.prod(tensor.shape[1:]) for tensor in tensors]
    ends = np.cumsum([rows * width for rows, width in zip(most, widths, strict=True)]).tolist()
    message = tensors[0].new_zeros(ends[-1] if ends else 0)
    for tensor, end, rows, width in zip(tensors, ends, most, widths, strict=True):
        start = end - rows * width
        message[start : start + tensor.numel()] = tensor.flatten()
    if not len(message):
        return partial(_rows_of, message.expand(communicator.world_size, 0), tensors, lengths)
    wait = communicator.start_all_gather(message)
    return lambda: _rows_of(wait(), tensors, lengths)


def _rows_of(gathered: Tensor, tensors: Sequence[Tensor], lengths: Ints) -> list[Tensor]:
    """Take the (W, message) of all ranks apart."""
    most = lengths.max(axis=0).tolist()
    found, end = [], 0
    for k, (tensor, rows) in enumerate(zip(tensors, most, strict=True)):
        start, end = end, end + rows * math.prod(tensor.shape[1:])
        if start == end:  # a view of nothing has strides of its own
            found.append(tensor.new_empty(int(lengths[:, k].sum()), *tensor.shape[1:]))
            continue
        whole = gathered[:, start:end].reshape(len(gathered) * rows, *tensor.shape[1:])
        if (lengths[:, k] == rows).all():
            found.append(whole)
        else:
            filled = np.arange(rows) < lengths[:, k, None]
            found.append(whole[on_device(np.flatnonzero(filled), whole.device)])
    return found


def on_device(array: Ints, device: torch.device) -> Tensor:
    """Copy an array to a device while the host goes on."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def gather_records(record: Any, communicator: Communicator, device: torch.device) -> list[Any]:
    """Gather a small record of plain data from every rank.

    Args:
        record: What JSON can hold.
        communicator: The processes.
        device: On which they exchange tensors.

    Returns:
        The record of every rank, tuples as lists.
    """
    # ASCII escapes keep names that are no valid text, as archives hold them
    message = torch.frombuffer(bytearray(json.dumps(record).encode("ascii")), dtype=torch.uint8).to(device)
    lengths = communicator.gather_counts([len(message)])
    (joined,) = gather_rows([message], lengths, communicator)
    whole, ends = bytes(joined.tolist()), np.cumsum(lengths[:, 0]).tolist()
    return [json.loads(whole[start:end]) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
