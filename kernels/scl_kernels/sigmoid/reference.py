"""The reference of `sigmoid_loss`: its definition, its path on CPU and what its tests compare with.

It works on chunks of local rows, so that no N x N matrix exists in it either: "x" is the local side, "y" the global
one.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from scl_kernels.dtypes import compute_dtype
from scl_kernels.pairwise.reference import MINIMUM_NORM, chunks, normalized, own_columns, through_normalization


class Logits(NamedTuple):
    """How cosine similarities become logits, scale * cosine + bias, and where the partners are."""

    scale: Tensor
    """() multiplier."""
    bias: Tensor
    """() added."""
    offset: int
    """Global index of the first local row's partner."""


def row_sums(x: Tensor, y_all: Tensor, logits: Logits) -> Tensor:
    """Sum over each local row's pairs, with z = 1 for its partner and -1 for all others.

    Args:
        x: (n, D) local rows.
        y_all: (N, D) rows of the other modality over the global batch.
        logits: Scale, bias and offset.

    Returns:
        (3, n): the sums of softplus(-z S), of its derivative dS = -z sigmoid(-z S), and of dS S.
    """
    dtype = compute_dtype(x.dtype)
    x, y = normalized(x, dtype), normalized(y_all, dtype)
    out = x.new_empty(3, x.shape[0])
    for part in chunks(x.shape[0], y.shape[0], x.element_size()):
        signed = _signed(x[part], y, logits, part)
        out[0, part] = F.softplus(signed).sum(1)
        slope = signed.sigmoid()  # times a sign, as S is of -z S: their product has none
        out[2, part] = signed.mul_(slope).sum(1)
        out[1, part] = _flip_own(slope, own_columns(part, logits.offset, x.device)).sum(1)
    return out


def side_gradient(x: Tensor, y_all: Tensor, logits: Logits, weight_x: Tensor | None, weight_y: Tensor | None) -> Tensor:
    """Return the gradient of the global loss with respect to the local rows.

    dS_ij = w (sigmoid(S_ij) - [i = j]), with w that of the row of `a`: local rows of `a` have it themselves, for local
    rows of `b` it belongs to the global side.

    Args:
        x: (n, D) local rows.
        y_all: (N, D) rows of the other modality over the global batch.
        logits: Scale, bias and offset.
        weight_x: (n,) weights of the local rows, or None where all are 1.
        weight_y: (N,) weights of the global rows, or None where all are 1.

    Returns:
        (n, D) in the local rows' dtype.
    """
    dtype = compute_dtype(x.dtype)
    unit, y = normalized(x, dtype), normalized(y_all, dtype)
    gradient = torch.empty_like(unit)
    for part in chunks(unit.shape[0], y.shape[0], unit.element_size()):
        d_logits = _signed(unit[part], y, logits, part).sigmoid_()
        _flip_own(d_logits, own_columns(part, logits.offset, x.device))
        if weight_x is not None:
            d_logits *= weight_x[part, None].to(dtype)
        if weight_y is not None:
            d_logits *= weight_y.to(dtype)
        gradient[part] = d_logits @ y
    gradient *= logits.scale.to(dtype)
    d_x, _ = through_normalization(x, unit, gradient)
    return d_x


def plain_sigmoid(a: Tensor, b: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Compute every row's sum over its pairs, (N,), with the whole matrix, in the inputs' dtype; the baseline."""
    a, b = (F.normalize(x, dim=1, eps=MINIMUM_NORM) for x in (a, b))
    logits = scale * (a @ b.T) + bias
    return -F.logsigmoid((2 * torch.eye(len(a), dtype=a.dtype, device=a.device) - 1) * logits).sum(1)


def _signed(x: Tensor, y: Tensor, logits: Logits, part: slice) -> Tensor:
    """Return (rows of the chunk, N): -z S of normalized rows."""
    signed = x @ y.T
    signed *= logits.scale.to(x.dtype)
    signed += logits.bias.to(x.dtype)
    return _flip_own(signed, own_columns(part, logits.offset, x.device))


def _flip_own(matrix: Tensor, own: Tensor) -> Tensor:
    """Change the sign of every row's entry at `own`, in place."""
    return matrix.scatter_(1, own, -matrix.gather(1, own))
