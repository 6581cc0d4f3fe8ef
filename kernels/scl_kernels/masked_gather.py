"""Masked-token gather: rows, embeddings and the following LayerNorm, straight into the packed buffer."""

import torch
from torch import Tensor

from scl_kernels.backend import Backend
from scl_kernels.masked_gather_reference import CLASS_ROW, MASK_ROW, masked_gather_reference
from scl_kernels.validation import check_range, check_tensor, readable

__all__ = ["CLASS_ROW", "MASK_ROW", "masked_gather"]


def masked_gather(
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
    *,
    backend: Backend = "auto",
) -> Tensor:
    """Gather rows into a packed buffer, add their embeddings and normalise them.

    x = (rows[source] | class_row | mask_row) + position[position_id] + (extra[extra_id] | 0);
    y = LayerNorm(x) * weight + bias, with statistics in fp32 (fp64 for fp64 inputs).
    Differentiable in the first seven arguments; the gradients are sums in a fixed order (bitwise repeatable) and are
    zeros, never None, for what no token reads.

    Args:
        rows: (R, D) patch rows or a word-embedding table; R may be 0.
        position: (P, D) position embeddings.
        extra: (E, D) temporal or token-type embeddings; E may be 0.
        class_row: (D,) the class embedding, or None where `source` never asks for it.
        mask_row: (D,) the mask token, or None where `source` never asks for it.
        weight: (D,) LayerNorm's weight.
        bias: (D,) LayerNorm's bias.
        source: (N,) int64; a row of `rows`, or CLASS_ROW (-1), or MASK_ROW (-2); N may be 0.
        position_id: (N,) int64 rows of `position`.
        extra_id: (N,) int64 rows of `extra`; -1 where nothing is added.
        eps: LayerNorm's epsilon.
        backend: `auto`, `triton` or `torch`.

    Returns:
        (N, D) in `rows`' dtype.

    Raises:
        ValueError: An argument has the wrong shape, dtype or device, or an index is out of range (checked always on
            CPU, elsewhere under SCL_KERNELS_DEBUG=1; without it such a row is NaN on the Triton path).
    """
    tables = (rows, position, extra, class_row, mask_row, weight, bias)
    indices = (source, position_id, extra_id)
    _validate(tables, indices, eps)
    return masked_gather_reference(*tables, *indices, eps)


def _validate(
    tables: tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor, Tensor],
    indices: tuple[Tensor, Tensor, Tensor],
    eps: float,
) -> None:
    rows, position, extra, class_row, mask_row, weight, bias = tables
    source, position_id, extra_id = indices
    check_tensor("rows", rows, shape=(None, None))
    width, device = rows.shape[1], rows.device
    check_tensor("position", position, shape=(None, width), device=device)
    check_tensor("extra", extra, shape=(None, width), device=device)
    for name, vector in (("class_row", class_row), ("mask_row", mask_row), ("weight", weight), ("bias", bias)):
        if vector is not None:
            check_tensor(name, vector, shape=(width,), device=device)
    check_tensor("source", source, shape=(None,), dtypes=(torch.int64,), device=device)
    for name, index in (("position_id", position_id), ("extra_id", extra_id)):
        check_tensor(name, index, shape=tuple(source.shape), dtypes=(torch.int64,), device=device)
    if not eps > 0:
        raise ValueError(f"eps is {eps}; wanted a number greater than 0")
    check_range("source", source, MASK_ROW, rows.shape[0])
    check_range("position_id", position_id, 0, position.shape[0])
    check_range("extra_id", extra_id, -1, extra.shape[0])
    for name, value, vector in (("class_row", CLASS_ROW, class_row), ("mask_row", MASK_ROW, mask_row)):
        if vector is None and readable(source) and bool((source == value).any()):
            raise ValueError(f"source asks for {name} ({value}) and {name} is None; pass it")
