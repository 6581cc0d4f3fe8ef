"""The reference of `dropout_add_norm`: its definition, its path on CPU and what its tests compare with."""

import torch.nn.functional as F
from torch import Tensor

from scl_kernels.dropout_norm.draws import counter_dropout


def dropout_add_norm_reference(
    branch: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    keys: Tensor | None,
    site: int,
    dropout: float,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Compute `dropout_add_norm` (see there for shapes) with PyTorch operations."""
    total = counter_dropout(branch, keys, site, dropout) + residual
    return F.layer_norm(total, total.shape[1:], weight, bias, eps), total
