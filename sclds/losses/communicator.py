"""What the losses need of a process group, and the single process that needs none."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
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


def gather_rows(tensors: Sequence[Tensor], lengths: Sequence[Ints], communicator: Communicator) -> list[Tensor]:
    """Gather tensors whose first axis differs between ranks and wait for them, see `start_gather_rows`."""
    return start_gather_rows(tensors, lengths, communicator)()


def start_gather_rows(
    tensors: Sequence[Tensor], lengths: Sequence[Ints], communicator: Communicator
) -> Callable[[], list[Tensor]]:
    """Send tensors whose first axis differs between ranks, all of them in one message, without asking the device.

    Nothing here is a loop over ranks: each tensor has the room of the longest rank's, and rows that no rank filled are
    left out by one index, where there are any.

    Args:
        tensors: Of one dtype and device; every rank passes as many, equal in all axes but the first.
        lengths: For every tensor the rows of each rank's, (W,), known on the host, see `Communicator.gather_counts`.
            An array that stands for several tensors is looked at once.
        communicator: The processes.

    Returns:
        What waits for the message, and gives for every tensor the rows of all ranks, in rank order.
    """
    known = {key: _Room.of(each) for key, each in {id(each): each for each in lengths}.items()}
    rooms = [known[id(each)] for each in lengths]
    ends = list(accumulate(room.most * _width(tensor) for tensor, room in zip(tensors, rooms, strict=True)))
    message = tensors[0].new_zeros(ends[-1] if ends else 0)
    for tensor, end, room in zip(tensors, ends, rooms, strict=True):
        start = end - room.most * _width(tensor)
        message[start : start + tensor.numel()] = tensor.flatten()
    if not len(message):
        return partial(_rows_of, message.expand(communicator.world_size, 0), tensors, rooms)
    wait = communicator.start_all_gather(message)
    return lambda: _rows_of(wait(), tensors, rooms)


@dataclass(frozen=True)
class _Room:
    """What a message holds of tensors of equal lengths: on every rank as many rows as the longest has."""

    lengths: Ints
    """(W,) rows of each rank."""
    most: int
    total: int

    @classmethod
    def of(cls, lengths: Ints) -> "_Room":
        return cls(lengths, int(lengths.max()), int(lengths.sum()))

    def filled(self, device: torch.device) -> Tensor | None:
        """Return which of the W · `most` rows are some rank's, (total,) and counted out there; None where all are."""
        ranks = len(self.lengths)
        if self.total == ranks * self.most:
            return None
        left_out = self.most * np.arange(ranks) - (np.cumsum(self.lengths) - self.lengths)
        before, lengths = on_device(np.stack((left_out, self.lengths)), device)
        return torch.arange(self.total, device=device) + before.repeat_interleave(lengths, output_size=self.total)


def _width(tensor: Tensor) -> int:
    return math.prod(tensor.shape[1:])


def _rows_of(gathered: Tensor, tensors: Sequence[Tensor], rooms: Sequence[_Room]) -> list[Tensor]:
    """Take the (W, message) of all ranks apart."""
    filled = {id(room): room.filled(gathered.device) for room in {id(room): room for room in rooms}.values()}
    found, end = [], 0
    for tensor, room in zip(tensors, rooms, strict=True):
        start, end = end, end + room.most * _width(tensor)
        if start == end:  # a view of nothing has strides of its own
            found.append(tensor.new_empty(room.total, *tensor.shape[1:]))
            continue
        whole = gathered[:, start:end].reshape(len(gathered) * room.most, *tensor.shape[1:])
        index = filled[id(room)]
        found.append(whole if index is None else whole.index_select(0, index))
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
    (lengths,) = communicator.gather_counts([len(message)]).T
    (joined,) = gather_rows([message], [lengths], communicator)
    whole, ends = bytes(joined.tolist()), np.cumsum(lengths).tolist()
    return [json.loads(whole[start:end]) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
