"""The reference of `gather_rows`: its definition, its path on CPU and what its tests compare with."""

import torch
from torch import Tensor

from scl_kernels.indexing import all_within, embed


def gather_rows_reference(rows: Tensor, index: Tensor) -> Tensor:
    """Compute `gather_rows` (see there for arguments and shapes) with PyTorch operations."""
    out, valid = embed(rows, index), all_within((index, 0, rows.shape[0]))
    return out if valid is None else torch.where(valid, out, float("nan"))
