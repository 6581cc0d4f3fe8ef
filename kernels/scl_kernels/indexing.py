"""What the references of the gathers share: reading a table by an index that may be out of range."""

import torch
import torch.nn.functional as F
from torch import Tensor

from scl_kernels.validation import readable


def all_within(*ranges: tuple[Tensor, int, int]) -> Tensor | None:
    """Return (N, 1) where every index lies in [low, high), or None where the host has made sure of that.

    A GPU cannot be asked without waiting for it, and reading out of range there ends the process; such a row is NaN,
    as the kernels have it.
    """
    if readable(ranges[0][0]):
        return None
    valid = torch.ones_like(ranges[0][0], dtype=torch.bool)
    for index, low, high in ranges:
        valid = valid & (index >= low) & (index < high)
    return valid.unsqueeze(1)


def embed(table: Tensor, index: Tensor) -> Tensor:
    """Return table[index], (N, D), with any row for an index out of range, also of a table without rows.

    Tables are read with `embedding` and not by indexing, because its backward on CPU adds rows in a fixed order in
    parallel.
    """
    if table.shape[0] == 0:
        table = F.pad(table, (0, 0, 0, 1))
    return F.embedding(index.clamp(0, table.shape[0] - 1), table)
