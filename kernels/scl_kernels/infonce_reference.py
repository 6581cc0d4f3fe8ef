"""The definition of `infonce`, and its PyTorch twin: its path on CPU and what its tests compare with.

The twin works on chunks of local rows, so that no N x N matrix exists in it either. Both directions of the loss are the
same calculation on exchanged arguments: "x" is the local side, "y" the global one.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from scl_kernels.dtypes import compute_dtype

MINIMUM_NORM = 1e-8
"""Norms below it are taken for it when rows are normalised."""
CHUNK_BYTES = 64 * 2**20
"""Size of the largest similarity chunk; about four of them are alive at once."""


def whole_batch(a: Tensor, b: Tensor, temperature: Tensor | float, weight: Tensor) -> Tensor:
    """Compute the global loss as it is defined, with the whole similarity matrix, in fp32 (fp64 for fp64 inputs).

    Small batches take this path, for which launches are what counts: the temperature divides rows, not the matrix,
    and sums are fused where PyTorch has an operation for it.

    Args:
        a: (N, D) rows of one modality.
        b: (N, D) their partners.
        temperature: () divisor of the cosine similarities.
        weight: (N,) weight of each sample's loss.

    Returns:
        () the sum over i of w_i (log sum_j exp S_ij + log sum_j exp S_ji - 2 S_ii).
    """
    dtype = compute_dtype(a.dtype)
    a, b = (F.normalize(x.to(dtype), dim=1, eps=MINIMUM_NORM) for x in (a, b))
    similarity = (a / temperature) @ b.T
    each = (similarity.logsumexp(1) + similarity.logsumexp(0)).sub(similarity.diagonal(), alpha=2)
    return weight.to(dtype) @ each


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


def _chunks(rows: int, columns: int, itemsize: int) -> list[slice]:
    step = max(1, CHUNK_BYTES // max(1, columns * itemsize))
    return [slice(start, min(rows, start + step)) for start in range(0, rows, step)]


def _normalised(x: Tensor, dtype: torch.dtype) -> Tensor:
    return F.normalize(x.detach().to(dtype), dim=1, eps=MINIMUM_NORM)


def side_statistics(side: Side) -> Tensor:
    """Return (3, n): log-sum-exp over a row's similarities, its diagonal entry, and 1 where that is the largest."""
    dtype = compute_dtype(side.x.dtype)
    x, y = _normalised(side.x, dtype), _normalised(side.y_all, dtype)
    out = x.new_empty(3, x.shape[0])
    for part in _chunks(x.shape[0], y.shape[0], x.element_size()):
        similarity = x[part] @ y.T
        similarity /= side.temperature.to(dtype)
        own = torch.arange(part.start, part.stop, device=x.device).add_(side.offset).unsqueeze(1)
        diagonal = similarity.gather(1, own)
        largest = similarity.amax(1, keepdim=True)
        out[1, part] = diagonal.squeeze(1)
        out[2, part] = (diagonal >= largest).squeeze(1).to(dtype)
        out[0, part] = similarity.sub_(largest).exp_().sum(1).log_().add_(largest.squeeze(1))
    return out


def side_gradient(side: Side, weight_all: Tensor, x_lse: Tensor, y_lse_all: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient of the global loss with respect to the local rows and the temperature's share of it.

    dS_ij = w_i exp(S_ij - x_lse_i) + w_j exp(S_ij - y_lse_j) - 2 w_i [i = j] is formed chunk by chunk from the
    log-sum-exps of the forward pass. Since sum_j dS_ij S_ij equals the product of the normalised row with its own
    gradient, the temperature's gradient costs nothing more.

    Args:
        side: The direction.
        weight_all: (N,) weight of each global sample.
        x_lse: (n,) log-sum-exp of the local rows.
        y_lse_all: (N,) log-sum-exp of the global samples in the other direction.

    Returns:
        (n, D) in the local rows' dtype, and () in the statistics' dtype.
    """
    dtype = compute_dtype(side.x.dtype)
    x, y, temperature = _normalised(side.x, dtype), _normalised(side.y_all, dtype), side.temperature.to(dtype)
    weight_all, x_lse, y_lse_all = weight_all.to(dtype), x_lse.to(dtype), y_lse_all.to(dtype)
    weight = weight_all[side.offset : side.offset + x.shape[0]]
    gradient = torch.empty_like(x)
    for part in _chunks(x.shape[0], y.shape[0], x.element_size()):
        similarity = x[part] @ y.T
        similarity /= temperature
        d_similarity = (similarity - x_lse[part, None]).exp_().mul_(weight[part, None])
        d_similarity += similarity.sub_(y_lse_all).exp_().mul_(weight_all)
        own = torch.arange(part.start, part.stop, device=x.device).add_(side.offset).unsqueeze(1)
        d_similarity.scatter_add_(1, own, -2 * weight[part, None])
        gradient[part] = d_similarity @ y
    gradient /= temperature
    along = (x * gradient).sum(1, keepdim=True)
    norm = torch.linalg.vector_norm(side.x.detach().to(dtype), dim=1, keepdim=True)
    gradient -= x * along * (norm >= MINIMUM_NORM)
    gradient /= norm.clamp(min=MINIMUM_NORM)
    return gradient.to(side.x.dtype), -along.sum() / temperature
