"""Gather rows of a packed buffer (pairs for fusion, [CLS] rows, MLM positions), with an embedding added on the way.

In this order: the forward kernel, its launch as an operator, autograd, the public function. The backward is a sum
by index: a `segment_sum`, or PyTorch's own for the rows of few tokens, of which hardly any share one.
"""
# mypy: disable-error-code="no-untyped-def"

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from scl_kernels.backend import Backend, resolve
from scl_kernels.masked_gather_reference import gather_rows_reference
from scl_kernels.segment_sum import segment_sum, sum_by_index
from scl_kernels.sizes import cdiv, power_of_two
from scl_kernels.validation import check_matrix, check_range, check_tensor

ROWS = 4
"""Rows of a program."""
SMALL = 16384
"""Most tokens whose gradients PyTorch's own sum adds, in fewer launches and with more memory traffic."""


@triton.jit
def forward_kernel(
    rows,  # (R, D)
    index,  # (N,) int64
    extra,  # (E, D)
    extra_id,  # (N,) int64; -1 adds nothing
    out,  # (N, D)
    read,  # (N,) int64: the row that was read, R for an index out of range
    count,
    row_count,
    extra_count,
    width: tl.constexpr,
    HAS_EXTRA: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Copy ROWS rows, adding the embedding; NaN for an index out of range; grid (row blocks,)."""
    at = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = at < count
    d = tl.arange(0, BLOCK_D)
    columns = (d < width)[None, :]
    source = tl.load(index + at, mask=inside, other=0)
    valid = (source >= 0) & (source < row_count)
    tl.store(read + at, tl.where(valid, source, row_count), mask=inside)
    x = tl.load(rows + source[:, None] * width + d[None, :], mask=(inside & valid)[:, None] & columns, other=0.0)
    if HAS_EXTRA:
        extra_row = tl.load(extra_id + at, mask=inside, other=-1)
        valid = valid & (extra_row >= -1) & (extra_row < extra_count)
        added = inside & valid & (extra_row >= 0)
        e = tl.load(extra + extra_row[:, None] * width + d[None, :], mask=added[:, None] & columns, other=0.0)
        x = x.to(tl.float32) + e.to(tl.float32)
    x = tl.where(valid[:, None], x, float("nan"))
    tl.store(out + at[:, None] * width + d[None, :], x.to(out.dtype.element_ty), mask=inside[:, None] & columns)


GATHER_ROWS = "scl_kernels::gather_rows"
SEGMENT_SUM = "scl_kernels::segment_sum"
torch.library.define(GATHER_ROWS, "(Tensor rows, Tensor index, Tensor? extra, Tensor? extra_id) -> (Tensor, Tensor)")
torch.library.define(SEGMENT_SUM, "(Tensor source, Tensor index, int count) -> Tensor")


# `define`, `impl` and a Function instead of `custom_op`, whose wrappers take longer than a small launch.
@torch.library.impl(GATHER_ROWS, "CompositeExplicitAutograd")
def _gather(rows: Tensor, index: Tensor, extra: Tensor | None, extra_id: Tensor | None) -> tuple[Tensor, Tensor]:
    """Launch the forward kernel: (R, D), (N,), (E, D), (N,) to (N, D) and (N,), the row read or R."""
    rows, index = rows.contiguous(), index.contiguous()
    count, width = index.shape[0], rows.shape[1]
    out, read = rows.new_empty(count, width), torch.empty_like(index)
    if count:
        forward_kernel[(cdiv(count, ROWS),)](
            rows,
            index,
            rows if extra is None else extra.contiguous(),
            index if extra_id is None else extra_id.contiguous(),
            out,
            read,
            count,
            rows.shape[0],
            0 if extra is None else extra.shape[0],
            width,
            HAS_EXTRA=extra is not None,
            ROWS=ROWS,
            BLOCK_D=power_of_two(width),
            num_warps=4,
        )
    return out, read


@torch.library.register_fake(GATHER_ROWS)
def _(rows, index, extra, extra_id):
    return rows.new_empty(index.shape[0], rows.shape[1]), torch.empty_like(index)


@torch.library.impl(SEGMENT_SUM, "CompositeExplicitAutograd")
def _segment_sum(source: Tensor, index: Tensor, count: int) -> Tensor:
    """Add rows by destination: (N, D), (N,) to (count, D)."""
    return segment_sum(source.contiguous(), index, count)


@torch.library.register_fake(SEGMENT_SUM)
def _(source, index, count):
    return source.new_empty(count, source.shape[1])


@register_flop_formula([torch.ops.scl_kernels.gather_rows, torch.ops.scl_kernels.segment_sum])
def no_flops(*args, out_shape=None, **kwargs) -> int:
    """Count nothing: rows are moved, not multiplied."""
    return 0


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, extra: Tensor | None, extra_id: Tensor | None) -> Tensor:
        """Gather, and keep which row each token read."""
        out, read = torch.ops.scl_kernels.gather_rows(rows, index, extra, extra_id)
        ctx.save_for_backward(read, extra_id)
        ctx.rows = rows.shape[0]
        ctx.extra = None if extra is None else (extra.shape[0], extra.dtype)
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple:
        """Scatter with addition."""
        read, extra_id = ctx.saved_tensors
        d_rows, d_extra = None, None
        if ctx.needs_input_grad[0]:
            add = sum_by_index if len(read) <= SMALL else torch.ops.scl_kernels.segment_sum
            d_rows = add(d_out, read, ctx.rows)
        if ctx.extra is not None and ctx.needs_input_grad[2]:
            d_extra = torch.ops.scl_kernels.segment_sum(d_out, extra_id, ctx.extra[0]).to(ctx.extra[1])
        return d_rows, None, d_extra, None


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
    if resolve(backend, rows, "gather_rows", index.shape[0] * rows.shape[1]) == "triton":
        return _GatherRows.apply(rows, index, extra, extra_id)
    return gather_rows_reference(rows, index, extra, extra_id)


def _validate(rows: Tensor, index: Tensor, extra: Tensor | None, extra_id: Tensor | None) -> None:
    check_matrix("rows", rows)
    check_tensor("index", index, shape=(None,), dtypes=(torch.int64,), device=rows.device)
    check_range("index", index, 0, rows.shape[0])
    if (extra is None) != (extra_id is None):
        raise ValueError("only one of extra and extra_id is given; pass both or neither")
    if extra is not None and extra_id is not None:
        check_tensor("extra", extra, shape=(None, rows.shape[1]), device=rows.device)
        check_tensor("extra_id", extra_id, shape=tuple(index.shape), dtypes=(torch.int64,), device=rows.device)
        check_range("extra_id", extra_id, -1, extra.shape[0])
