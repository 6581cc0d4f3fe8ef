"""Gather rows of a packed buffer: pairs for fusion, [CLS] rows, MLM positions.

In this order: the launch as an operator, autograd, the public function. The backward is a sum by index: a
`segment_sum`, or PyTorch's own for the rows of few tokens, of which hardly any share one.
"""
# mypy: disable-error-code="no-untyped-def"

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from scl_kernels.backend import Backend, resolve
from scl_kernels.gather_rows.kernel import forward_kernel
from scl_kernels.gather_rows.reference import gather_rows_reference
from scl_kernels.segment_sum import segment_sum, sum_by_index
from scl_kernels.sizes import cdiv, power_of_two
from scl_kernels.validation import check_matrix, check_range, check_tensor

ROWS = 4
"""Rows of a program."""
SMALL = 16384
"""Most tokens whose gradients PyTorch's own sum adds, in fewer launches and with more memory traffic."""

GATHER_ROWS = "scl_kernels::gather_rows"
SEGMENT_SUM = "scl_kernels::segment_sum"
torch.library.define(GATHER_ROWS, "(Tensor rows, Tensor index) -> (Tensor, Tensor)")
torch.library.define(SEGMENT_SUM, "(Tensor source, Tensor index, int count) -> Tensor")


# `define`, `impl` and a Function instead of `custom_op`, whose wrappers take longer than a small launch.
@torch.library.impl(GATHER_ROWS, "CompositeExplicitAutograd")
def _gather(rows: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Launch the forward kernel: (R, D), (N,) to (N, D) and (N,), the row read or R."""
    rows, index = rows.contiguous(), index.contiguous()
    count, width = index.shape[0], rows.shape[1]
    out, read = rows.new_empty(count, width), torch.empty_like(index)
    if count:
        forward_kernel[(cdiv(count, ROWS),)](
            rows, index, out, read, count, rows.shape[0], width, ROWS=ROWS, BLOCK_D=power_of_two(width), num_warps=4
        )
    return out, read


@torch.library.register_fake(GATHER_ROWS)
def _(rows, index):
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
    def forward(ctx: Any, rows: Tensor, index: Tensor) -> Tensor:
        """Gather, and keep which row each token read."""
        out, read = torch.ops.scl_kernels.gather_rows(rows, index)
        ctx.save_for_backward(read)
        ctx.rows = rows.shape[0]
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple:
        """Scatter with addition."""
        (read,) = ctx.saved_tensors
        add = sum_by_index if len(read) <= SMALL else torch.ops.scl_kernels.segment_sum
        return add(d_out, read, ctx.rows), None


def gather_rows(rows: Tensor, index: Tensor, *, backend: Backend = "auto") -> Tensor:
    """Return rows[index].

    Differentiable in `rows`; gradients are sums in a fixed order (bitwise repeatable), zeros for rows that nothing
    reads. As the backward of a gather is a scatter with addition, this is also how packed rows are returned.

    Args:
        rows: (R, D) packed rows.
        index: (N,) int64 rows of `rows`; N may be 0.
        backend: `auto`, `triton` or `torch`.

    Returns:
        (N, D) in `rows`' dtype.

    Raises:
        ValueError: An argument has the wrong shape, dtype or device, or an index is out of range (checked always on
            CPU, elsewhere under SCL_KERNELS_DEBUG=1; without it such a row is NaN on the Triton path).
    """
    check_matrix("rows", rows)
    check_tensor("index", index, shape=(None,), dtypes=(torch.int64,), device=rows.device)
    check_range("index", index, 0, rows.shape[0])
    if resolve(backend, rows, "gather_rows", index.shape[0] * rows.shape[1]) == "triton":
        return _GatherRows.apply(rows, index)
    return gather_rows_reference(rows, index)
