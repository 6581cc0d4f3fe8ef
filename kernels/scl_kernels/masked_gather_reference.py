"""The PyTorch twin of `masked_gather`: its definition, its path on CPU and what its tests compare with.

Plain differentiable operations, so that autograd, torch.compile and FLOP counters see through it. Tables are read with
`embedding` and not by indexing, because its backward on CPU adds rows in a fixed order in parallel.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

CLASS_ROW = -1
"""Value of `source` that stands for the class embedding."""
MASK_ROW = -2
"""Value of `source` that stands for the mask token."""


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of sums and statistics for inputs of `dtype`: fp64 for fp64, else fp32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


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
    x = _embed(rows, source.clamp(min=0)).to(dtype)
    for value, row in ((CLASS_ROW, class_row), (MASK_ROW, mask_row)):
        if row is not None:
            x = torch.where((source == value).unsqueeze(1), row.to(dtype), x)
    x = x + _embed(position.to(dtype), position_id) + _embed_or_zero(extra.to(dtype), extra_id)
    return F.layer_norm(x, x.shape[1:], weight.to(dtype), bias.to(dtype), eps).to(rows.dtype)


def gather_rows_reference(rows: Tensor, index: Tensor, extra: Tensor | None, extra_id: Tensor | None) -> Tensor:
    """Compute `gather_rows` (see there for arguments and shapes) with PyTorch operations."""
    out = _embed(rows, index)
    if extra is None or extra_id is None:
        return out
    dtype = compute_dtype(rows.dtype)
    return (out.to(dtype) + _embed_or_zero(extra.to(dtype), extra_id)).to(rows.dtype)


def _embed(table: Tensor, index: Tensor) -> Tensor:
    """Return table[index], (N, D), also for a table without rows when every index is a place-holder 0."""
    if table.shape[0] == 0:
        table = F.pad(table, (0, 0, 0, 1))
    return F.embedding(index, table)


def _embed_or_zero(table: Tensor, index: Tensor) -> Tensor:
    """Return table[index], (N, D), and zeros where the index is -1; the table is small, so a copy is cheap."""
    return F.embedding(index + 1, F.pad(table, (0, 0, 1, 0)))
