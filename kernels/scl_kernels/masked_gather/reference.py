"""The reference of `masked_gather`: its definition, its path on CPU and what its tests compare with.

Plain differentiable operations, so that autograd, torch.compile and FLOP counters see through it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from scl_kernels.dtypes import compute_dtype
from scl_kernels.indexing import all_within, embed
from scl_kernels.masked_gather.inputs import CLASS_ROW, MASK_ROW, Inputs


def masked_gather_reference(inputs: Inputs) -> Tensor:
    """Compute `masked_gather` (see there for shapes) with PyTorch operations."""
    rows, position, extra, class_row, mask_row, weight, bias, source, position_id, extra_id, eps = inputs
    dtype = compute_dtype(rows.dtype)
    lowest = MASK_ROW if mask_row is not None else CLASS_ROW if class_row is not None else 0
    valid = all_within(
        (source, lowest, rows.shape[0]), (position_id, 0, position.shape[0]), (extra_id, -1, extra.shape[0])
    )
    x = embed(rows, source)
    for value, row in ((CLASS_ROW, class_row), (MASK_ROW, mask_row)):
        if row is not None:
            x = torch.where((source == value).unsqueeze(1), row.to(x.dtype), x)
        elif valid is not None:
            valid = valid & (source != value).unsqueeze(1)
    # The sum is of `dtype` because terms are: tables are converted, whose gradients are long sums, and x is not copied.
    # A row of zeros before the extra ones stands for -1; that table is small, so a copy is cheap.
    x = x + embed(position.to(dtype), position_id) + embed(F.pad(extra.to(dtype), (0, 0, 1, 0)), extra_id + 1)
    out = F.layer_norm(x, x.shape[1:], weight.to(dtype), bias.to(dtype), eps).to(rows.dtype)
    return out if valid is None else torch.where(valid, out, float("nan"))


def plain_masked_gather(inputs: Inputs) -> Tensor:
    """Compute what a model without the operation would, everything in the inputs' dtype; the benchmarks' baseline."""
    rows, position, extra, class_row, mask_row, weight, bias, source, position_id, extra_id, eps = inputs
    x = F.embedding(source.clamp(min=0), rows if rows.shape[0] else F.pad(rows, (0, 0, 0, 1)))
    for value, row in ((CLASS_ROW, class_row), (MASK_ROW, mask_row)):
        if row is not None:
            x = torch.where((source == value).unsqueeze(1), row, x)
    x = x + F.embedding(position_id, position)
    x = x + F.embedding(extra_id + 1, F.pad(extra, (0, 0, 1, 0)))
    return F.layer_norm(x, x.shape[1:], weight, bias, eps)
