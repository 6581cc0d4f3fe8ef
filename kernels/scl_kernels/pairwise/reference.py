"""What the references of the pairwise losses share: chunks of local rows, and the way through the normalization."""

import torch
import torch.nn.functional as F
from torch import Tensor

MINIMUM_NORM = 1e-8
"""Norms below it are taken for it when rows are normalized."""
CHUNK_BYTES = 64 * 2**20
"""Size of the largest similarity chunk; about four of them are alive at once."""


def chunks(rows: int, columns: int, itemsize: int) -> list[slice]:
    """Cut local rows so that a chunk's similarities stay below CHUNK_BYTES, a row at least."""
    step = max(1, CHUNK_BYTES // max(1, columns * itemsize))
    return [slice(start, min(rows, start + step)) for start in range(0, rows, step)]


def own_columns(part: slice, offset: int, device: torch.device) -> Tensor:
    """Return (rows of the chunk, 1) int64: the global index of each row's own partner."""
    return torch.arange(part.start, part.stop, device=device).add_(offset).unsqueeze(1)


def normalized(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return (n, D) constant rows of norm 1 in `dtype`, norms clamped at MINIMUM_NORM."""
    return F.normalize(x.detach().to(dtype), dim=1, eps=MINIMUM_NORM)


def through_normalization(x: Tensor, unit: Tensor, d_unit: Tensor) -> Tensor:
    """Turn the gradient of normalized rows into that of the rows.

    A row whose norm was clamped is divided by a constant: nothing is projected out of its gradient.

    Args:
        x: (n, D) rows.
        unit: (n, D) the same, normalized, in the statistics' dtype.
        d_unit: (n, D) gradient of `unit`; overwritten.

    Returns:
        (n, D) in the rows' dtype.
    """
    along = (unit * d_unit).sum(1, keepdim=True)
    norm = torch.linalg.vector_norm(x.detach().to(unit.dtype), dim=1, keepdim=True)
    d_unit -= unit * along * (norm >= MINIMUM_NORM)
    d_unit /= norm.clamp(min=MINIMUM_NORM)
    return d_unit.to(x.dtype)
