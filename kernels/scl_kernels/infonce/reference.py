"""The reference of `infonce`: its definition, its path on CPU and what its tests compare with.

It works on chunks of local rows, so that no N x N matrix exists in it either. Both directions of the loss are the same
calculation on exchanged arguments: "x" is the local side, "y" the global one.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from scl_kernels.dtypes import compute_dtype
from scl_kernels.pairwise.duplicates import Treatment, same_rows
from scl_kernels.pairwise.reference import MINIMUM_NORM, chunks, normalized, own_columns, through_normalization

_NOTHING = -1e30
"""A similarity that is left out, where its share of 0 multiplies it."""


class Side(NamedTuple):
    """One direction of one problem."""

    x: Tensor
    """(n, D) local rows."""
    y_all: Tensor
    """(N, D) rows of the other modality over the global batch."""
    temperature: Tensor
    """() divisor of the cosine similarities."""
    offset: int
    """Index in `y_all` of the first local row's partner."""
    numbers: Tensor | None = None
    """Of `Duplicates`; None where duplicates are negatives."""
    duplicates: Treatment = "negatives"


def side_statistics(side: Side) -> Tensor:
    """Return (4, n), a row's statistics.

    They are the log-sum-exp over its similarities, the sum of its positives, 1 where one of these beats all others, and
    the mean of its similarities by their softmax. A row's positive is its diagonal entry, or where duplicates are
    positives all of theirs. What is ignored is not there. Neither a tie nor anything beside a NaN counts as beating.
    """
    dtype = compute_dtype(side.x.dtype)
    x, y = normalized(side.x, dtype), normalized(side.y_all, dtype)
    out = x.new_empty(4, x.shape[0])
    for part in chunks(x.shape[0], y.shape[0], x.element_size()):
        similarity = x[part] @ y.T
        similarity /= side.temperature.to(dtype)
        own = own_columns(part, side.offset, x.device)
        best = diagonal = similarity.gather(1, own)
        positives = torch.zeros_like(similarity, dtype=torch.bool).scatter_(1, own, True)
        if side.numbers is not None:
            same = same_rows(side.numbers, own)
            if side.duplicates == "positives":
                positives = same
                diagonal = (similarity * same).sum(1, keepdim=True)
                best = similarity.masked_fill(~same, -torch.inf).amax(1, keepdim=True)
            else:
                similarity.masked_fill_(same & ~positives, -torch.inf)
        largest = similarity.amax(1, keepdim=True)
        out[1, part] = diagonal.squeeze(1)
        others_smaller = (similarity < best).logical_or_(positives).all(1)
        out[2, part] = (others_smaller & ~best.squeeze(1).isnan()).to(dtype)
        shares = (similarity - largest).exp_()
        summed = shares.sum(1)
        out[0, part] = summed.log() + largest.squeeze(1)
        # what is left out has no share, and a similarity with which 0 is NaN
        out[3, part] = shares.mul_(similarity.clamp_(min=_NOTHING)).sum(1) / summed
    return out


def side_gradient(
    side: Side, weight_all: Tensor, x_lse: Tensor, y_lse_all: Tensor, count: Tensor | None = None
) -> Tensor:
    """Return the gradient of the global loss with respect to the local rows.

    dS_ij = w_i exp(S_ij - x_lse_i) + w_j exp(S_ij - y_lse_j) - 2 w_i [i = j] is formed chunk by chunk from the
    log-sum-exps of the forward pass. It is 0 for duplicates that are ignored; where they are positives, all of them
    have -w_i / count_i - w_j / count_j instead of the last term.

    Args:
        side: The direction.
        weight_all: (N,) weight of each global sample.
        x_lse: (n,) log-sum-exp of the local rows.
        y_lse_all: (N,) log-sum-exp of the global samples in the other direction.
        count: (N,) positives of each global sample, where duplicates are positives.

    Returns:
        (n, D) in the local rows' dtype.
    """
    dtype = compute_dtype(side.x.dtype)
    x, y, temperature = normalized(side.x, dtype), normalized(side.y_all, dtype), side.temperature.to(dtype)
    weight_all, x_lse, y_lse_all = weight_all.to(dtype), x_lse.to(dtype), y_lse_all.to(dtype)
    weight = weight_all[side.offset : side.offset + x.shape[0]]
    gradient = torch.empty_like(x)
    for part in chunks(x.shape[0], y.shape[0], x.element_size()):
        similarity = x[part] @ y.T
        similarity /= temperature
        d_similarity = (similarity - x_lse[part, None]).exp_().mul_(weight[part, None])
        d_similarity += similarity.sub_(y_lse_all).exp_().mul_(weight_all)
        own = own_columns(part, side.offset, x.device)
        if side.numbers is not None and count is not None:
            share = weight_all / count
            d_similarity -= same_rows(side.numbers, own) * (share[own] + share)
        else:
            if side.numbers is not None:
                d_similarity.masked_fill_(same_rows(side.numbers, own).scatter_(1, own, False), 0.0)
            d_similarity.scatter_add_(1, own, -2 * weight[part, None])
        gradient[part] = d_similarity @ y
    gradient /= temperature
    return through_normalization(side.x, x, gradient)


def plain_infonce(
    a: Tensor, b: Tensor, temperature: Tensor, weight: Tensor, same: Tensor | None = None, treatment: str = "negatives"
) -> Tensor:
    """Compute the global loss with the whole similarity matrix, in the inputs' dtype; the benchmarks' baseline.

    Args:
        a: (N, D) rows of one modality.
        b: (N, D) their partners.
        temperature: () divisor of the cosine similarities.
        weight: (N,) of each row's loss.
        same: (N, N) bool, which rows are duplicates, themselves among them.
        treatment: What those are to each other.
    """
    a, b = (F.normalize(x, dim=1, eps=MINIMUM_NORM) for x in (a, b))
    similarity = a @ b.T / temperature
    target = 2 * similarity.diagonal()
    if same is not None and treatment == "ignore":
        own = torch.eye(len(a), dtype=torch.bool, device=a.device)
        similarity = similarity.masked_fill(same & ~own, -torch.inf)
    if same is not None and treatment == "positives":
        target = (similarity * same).sum(1) / same.sum(1) + (similarity * same).sum(0) / same.sum(0)
    each = similarity.logsumexp(1) + similarity.logsumexp(0) - target
    return (weight * each).sum()
