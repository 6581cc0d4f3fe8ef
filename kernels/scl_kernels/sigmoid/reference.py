"""The reference of `sigmoid_loss`: its definition, its path on CPU and what its tests compare with.

It works on chunks of local rows, so that no N x N matrix exists in it either: "x" is the local side, "y" the global
one.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from scl_kernels.dtypes import compute_dtype
from scl_kernels.pairwise.duplicates import Treatment, same_rows
from scl_kernels.pairwise.reference import MINIMUM_NORM, chunks, normalized, own_columns, through_normalization

_NOTHING = -1e30
"""The -z S of a pair that is ignored: its softplus, its derivative and their product are 0."""


class Logits(NamedTuple):
    """How cosine similarities become logits, scale * cosine + bias, and where the partners are."""

    scale: Tensor
    """() multiplier."""
    bias: Tensor
    """() added."""
    offset: int
    """Global index of the first local row's partner."""
    numbers: Tensor | None = None
    """Of `Duplicates`; None where duplicates are negatives."""
    duplicates: Treatment = "negatives"


def row_sums(x: Tensor, y_all: Tensor, logits: Logits) -> Tensor:
    """Sum over each local row's pairs, with z = 1 for its partner (or all positives) and -1 for all others.

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
        out[:, part] = _sums(*_signed(x[part], y, logits, part))
    return out


def _sums(signed: Tensor, own: Tensor) -> Tensor:
    """Return (3, rows of a chunk): the sums over columns of what `_signed` returned."""
    slope = signed.sigmoid()  # times a sign, as S is of -z S: their product has none
    products = (signed * slope).sum(1)
    return torch.stack([F.softplus(signed).sum(1), _flip(slope, own).sum(1), products])


def side_gradient(
    x: Tensor,
    y_all: Tensor,
    logits: Logits,
    weight_x: Tensor | None,
    weight_y: Tensor | None,
    sums: Tensor | None = None,
) -> Tensor:
    """Return the gradient of the global loss with respect to the local rows.

    dS_ij = w (sigmoid(S_ij) - [i = j]), with w that of the row of `a`: local rows of `a` have it themselves, for local
    rows of `b` it belongs to the global side.

    Args:
        x: (n, D) local rows.
        y_all: (N, D) rows of the other modality over the global batch.
        logits: Scale, bias and offset.
        weight_x: (n,) weights of the local rows, or None where all are 1.
        weight_y: (N,) weights of the global rows, or None where all are 1.
        sums: (3, n) that takes what `row_sums` returns, out of the same logits; None where nobody asks.

    Returns:
        (n, D) in the local rows' dtype.
    """
    dtype = compute_dtype(x.dtype)
    unit, y = normalized(x, dtype), normalized(y_all, dtype)
    gradient = torch.empty_like(unit)
    for part in chunks(unit.shape[0], y.shape[0], unit.element_size()):
        signed, own = _signed(unit[part], y, logits, part)
        if sums is not None:
            sums[:, part] = _sums(signed, own)
        d_logits = _flip(signed.sigmoid_(), own)
        if weight_x is not None:
            d_logits *= weight_x[part, None].to(dtype)
        if weight_y is not None:
            d_logits *= weight_y.to(dtype)
        gradient[part] = d_logits @ y
    gradient *= logits.scale.to(dtype)
    return through_normalization(x, unit, gradient)


def plain_sigmoid(
    a: Tensor, b: Tensor, scale: Tensor, bias: Tensor, same: Tensor | None = None, treatment: str = "negatives"
) -> Tensor:
    """Compute every row's sum over its pairs, (N,), with the whole matrix, in the inputs' dtype; the baseline.

    Args:
        a: (N, D) rows of one modality.
        b: (N, D) their partners.
        scale: () multiplier of the cosine similarities.
        bias: () added.
        same: (N, N) bool, which rows are duplicates, themselves among them.
        treatment: What those are to each other.
    """
    a, b = (F.normalize(x, dim=1, eps=MINIMUM_NORM) for x in (a, b))
    logits = scale * (a @ b.T) + bias
    own = torch.eye(len(a), dtype=torch.bool, device=a.device)
    positive = own if same is None or treatment == "ignore" else same
    each = -F.logsigmoid((2 * positive.to(a.dtype) - 1) * logits)
    if same is not None and treatment == "ignore":
        each = each.masked_fill(same & ~own, 0)
    return each.sum(1)


def _signed(x: Tensor, y: Tensor, logits: Logits, part: slice) -> tuple[Tensor, Tensor]:
    """Return (rows of the chunk, N): -z S of normalized rows, and the places where z is 1, for `_flip`."""
    signed = x @ y.T
    signed *= logits.scale.to(x.dtype)
    signed += logits.bias.to(x.dtype)
    own = own_columns(part, logits.offset, x.device)
    if logits.numbers is None:
        return _flip(signed, own), own
    same = same_rows(logits.numbers, own)
    if logits.duplicates == "positives":
        return _flip(signed, same), same
    return _flip(signed, own).masked_fill_(same.scatter_(1, own, False), _NOTHING), own


def _flip(matrix: Tensor, where: Tensor) -> Tensor:
    """Change the sign, in place, of every row's entry at `where`, (n, 1) columns, or of all entries of a mask."""
    if where.dtype == torch.bool:
        return matrix.mul_(1 - 2 * where.to(matrix.dtype))
    return matrix.scatter_(1, where, -matrix.gather(1, where))
