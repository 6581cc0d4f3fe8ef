"""The PyTorch twin of `masked_gather`: its definition, its path on CPU and what its tests compare with.

Plain differentiable operations, so that autograd, torch.compile and FLOP counters see through it. Tables are read with
`embedding` and not by indexing, because its backward on CPU adds rows in a fixed order in parallel.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from scl_kernels.dtypes import compute_dtype
from scl_kernels.validation import readable

CLASS_ROW = -1
"""Value of `source` that stands for the class embedding."""
MASK_ROW = -2
"""Value of `source` that stands for the mask token."""


def masked_gather_reference(
    rows: Tensor,
    position: Tensor,
    extra: Tensor,
    class_row: Tensor | None,
    mask_row: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    source: Tensor,
    position_id: Tensor,
    extra_id: Tensor,
    eps: float,
) -> Tensor:
    """Compute `masked_gather` (see there for arguments and shapes) with PyTorch operations."""
    dtype = compute_dtype(rows.dtype)
    lowest = MASK_ROW if mask_row is not None else CLASS_ROW if class_row is not None else 0
    valid = _all_within(
        (source, lowest, rows.shape[0]), (position_id, 0, position.shape[0]), (extra_id, -1, extra.shape[0])
    )
    x = _embed(rows, source)
    for value, row in ((CLASS_ROW, class_row), (MASK_ROW, mask_row)):
        if row is not None:
            x = torch.where((source == value).unsqueeze(1), row.to(x.dtype), x)
        elif valid is not None:
            valid = valid & (source != value).unsqueeze(1)
    # The sum is of `dtype` because terms are: tables are converted, whose gradients are long sums, and x is not copied.
    x = x + _embed(position.to(dtype), position_id) + _embed_or_zero(extra.to(dtype), extra_id)
    out = F.layer_norm(x, x.shape[1:], weight.to(dtype), bias.to(dtype), eps).to(rows.dtype)
    return out if valid is None else torch.where(valid, out, float("nan"))


def gather_rows_reference(rows: Tensor, index: Tensor, extra: Tensor | None, extra_id: Tensor | None) -> Tensor:
    """Compute `gather_rows` (see there for arguments and shapes) with PyTorch operations."""
    out = _embed(rows, index)
    valid = _all_within((index, 0, rows.shape[0]))
    if extra is not None and extra_id is not None:
        out = (out + _embed_or_zero(extra.to(compute_dtype(rows.dtype)), extra_id)).to(rows.dtype)
        valid = _all_within((index, 0, rows.shape[0]), (extra_id, -1, extra.shape[0]))
    return out if valid is None else torch.where(valid, out, float("nan"))


def _all_within(*ranges: tuple[Tensor, int, int]) -> Tensor | None:
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


def _embed(table: Tensor, index: Tensor) -> Tensor:
    """Return table[index], (N, D), with any row for an index out of range, also of a table without rows."""
    if table.shape[0] == 0:
        table = F.pad(table, (0, 0, 0, 1))
    return F.embedding(index.clamp(0, table.shape[0] - 1), table)


def _embed_or_zero(table: Tensor, index: Tensor) -> Tensor:
    """Return table[index], (N, D), and zeros where the index is -1; the table is small, so a copy is cheap."""
    return _embed(F.pad(table, (0, 0, 1, 0)), index + 1)
