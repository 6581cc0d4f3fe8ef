"""What the losses need of a process group, and the single process that needs none."""

import json
from typing import Any, Protocol

import torch
from torch import Tensor


class Communicator(Protocol):
    """All processes of a run."""

    rank: int
    world_size: int

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Return (W, ...) from tensors of the same shape on every rank."""
        ...

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over ranks."""
        ...


class SingleProcess:
    """A world of one."""

    rank = 0
    world_size = 1

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Return the tensor with a leading axis of one."""
        return tensor[None]

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Return the tensor."""
        return tensor


def gather_ragged(tensors: list[Tensor], communicator: Communicator) -> list[list[Tensor]]:
    """Gather tensors whose first axis differs between ranks, all of them in one message.

    Args:
        tensors: Of one dtype and device; every rank passes as many, equal in all axes but the first.
        communicator: The processes.

    Returns:
        For every rank, its list of tensors.
    """
    lengths = torch.tensor([len(t) for t in tensors], dtype=torch.int64, device=tensors[0].device)
    all_lengths = communicator.all_gather(lengths).tolist()
    widths = [t[0].numel() if len(t) else t.shape[1:].numel() for t in tensors]
    sizes = [sum(n * w for n, w in zip(row, widths, strict=True)) for row in all_lengths]
    message = tensors[0].new_zeros(max(sizes))
    mine = torch.cat([t.flatten() for t in tensors])
    message[: len(mine)] = mine
    gathered = communicator.all_gather(message)
    ranks = []
    for row, lengths_of_rank, size in zip(gathered, all_lengths, sizes, strict=True):
        parts = row[:size].split([n * w for n, w in zip(lengths_of_rank, widths, strict=True)])
        shapes = [(n, *t.shape[1:]) for n, t in zip(lengths_of_rank, tensors, strict=True)]
        ranks.append([p.view(shape) for p, shape in zip(parts, shapes, strict=True)])
    return ranks


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
    return [json.loads(bytes(own.tolist())) for (own,) in gather_ragged([message], communicator)]
