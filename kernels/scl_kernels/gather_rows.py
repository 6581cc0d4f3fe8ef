"""Gather rows of a packed buffer (pairs for fusion, [CLS] rows, MLM positions), with an embedding added on the way."""

import torch
from torch import Tensor

from scl_kernels.backend import Backend
from scl_kernels.masked_gather_reference import gather_rows_reference
from scl_kernels.validation import check_range, check_tensor


def gather_rows(
    rows: Tensor,
    index: Tensor,
    extra: Tensor | None = None,
    extra_id: Tensor | None = None,
    *,
    backend: Backend = "auto",
) -> Tensor:
    """Return rows[index], plus extra[extra_id] where given.

    Differentiable in `rows` and `extra`; gradients are sums in a fixed order (bitwise repeatable), zeros for rows that
    nothing reads. As the backward of a gather is a scatter with addition, this is also how packed rows are returned.

    Args:
        rows: (R, D) packed rows.
        index: (N,) int64 rows of `rows`; N may be 0.
        extra: (E, D) an embedding table, for instance token types; together with `extra_id`.
        extra_id: (N,) int64 rows of `extra`; -1 where nothing is added.
        backend: `auto`, `triton` or `torch`.

    Returns:
        (N, D) in `rows`' dtype.

    Raises:
        ValueError: An argument has the wrong shape, dtype or device, only one of `extra` and `extra_id` is given, or an
            index is out of range (checked always on CPU, elsewhere under SCL_KERNELS_DEBUG=1; without it such a row is
            NaN on the Triton path).
    """
    _validate(rows, index, extra, extra_id)
    return gather_rows_reference(rows, index, extra, extra_id)


def _validate(rows: Tensor, index: Tensor, extra: Tensor | None, extra_id: Tensor | None) -> None:
    check_tensor("rows", rows, shape=(None, None))
    check_tensor("index", index, shape=(None,), dtypes=(torch.int64,), device=rows.device)
    check_range("index", index, 0, rows.shape[0])
    if (extra is None) != (extra_id is None):
        raise ValueError("only one of extra and extra_id is given; pass both or neither")
    if extra is not None and extra_id is not None:
        check_tensor("extra", extra, shape=(None, rows.shape[1]), device=rows.device)
        check_tensor("extra_id", extra_id, shape=tuple(index.shape), dtypes=(torch.int64,), device=rows.device)
        check_range("extra_id", extra_id, -1, extra.shape[0])
