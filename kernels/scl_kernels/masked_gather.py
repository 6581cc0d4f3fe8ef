"""Masked-token gather: rows, embeddings and the following LayerNorm, straight into the packed buffer.

In this order: the forward kernel, the backward kernel, their launches as operators, autograd, the public function. The
backward reads the tables again instead of keeping the sum x, and leaves its sums over tokens to one `segment_sum`: the
gradients of all tables are one, mask token, [CLS], rows, positions, extra rows from top to bottom.
"""
# mypy: disable-error-code="no-untyped-def"

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from scl_kernels.backend import Backend, resolve
from scl_kernels.masked_gather_reference import CLASS_ROW, MASK_ROW, masked_gather_reference
from scl_kernels.segment_sum import joint_destination, segment_sum, sum_by_index
from scl_kernels.sizes import cdiv, power_of_two
from scl_kernels.validation import check_matrix, check_range, check_tensor, readable

__all__ = ["CLASS_ROW", "MASK_ROW", "masked_gather"]

FORWARD_ROWS = 4
"""Rows of a tile in the forward pass."""
BACKWARD_ROWS = 2
"""Rows of a tile in the backward pass, which holds more values per row."""
BACKWARD_PROGRAMS = 1024
"""Most programs of the backward pass, and so most partial sums of LayerNorm's gradients."""

SMALL = 4096
"""Most tokens whose gradients PyTorch's own sum adds, since a segment sum costs thirty launches whatever its size."""

_CLASS = tl.constexpr(CLASS_ROW)
_MASK = tl.constexpr(MASK_ROW)


@triton.jit
def _sum_of_embeddings(
    rows,
    position,
    extra,
    class_row,
    mask_row,
    source,
    position_id,
    extra_id,
    at,
    d,
    count,
    row_count,
    position_count,
    extra_count,
    width: tl.constexpr,
    HAS_CLASS: tl.constexpr,
    HAS_MASK: tl.constexpr,
):
    """Return x (rows of `at`, BLOCK_D) in fp32, 0 beyond `width`, NaN for a row with an index out of range."""
    inside = at < count
    columns = d < width
    s = tl.load(source + at, mask=inside, other=0)
    p = tl.load(position_id + at, mask=inside, other=0)
    e = tl.load(extra_id + at, mask=inside, other=-1)
    valid = (s >= (_MASK if HAS_MASK else _CLASS if HAS_CLASS else 0)) & (s < row_count)
    if HAS_MASK and not HAS_CLASS:
        valid = valid & (s != _CLASS)
    valid = valid & (p >= 0) & (p < position_count) & (e >= -1) & (e < extra_count)
    read = (inside & valid)[:, None] & columns[None, :]
    x = tl.load(rows + s[:, None] * width + d[None, :], mask=read & (s >= 0)[:, None], other=0.0).to(tl.float32)
    if HAS_CLASS:
        class_value = tl.load(class_row + d, mask=columns, other=0.0).to(tl.float32)
        x = tl.where((s == _CLASS)[:, None], class_value[None, :], x)
    if HAS_MASK:
        mask_value = tl.load(mask_row + d, mask=columns, other=0.0).to(tl.float32)
        x = tl.where((s == _MASK)[:, None], mask_value[None, :], x)
    x += tl.load(position + p[:, None] * width + d[None, :], mask=read, other=0.0).to(tl.float32)
    x += tl.load(extra + e[:, None] * width + d[None, :], mask=read & (e >= 0)[:, None], other=0.0).to(tl.float32)
    return tl.where(valid[:, None] & columns[None, :], x, tl.where(columns[None, :], float("nan"), 0.0))


@triton.jit
def forward_kernel(
    rows,  # (R, D)
    position,  # (P, D)
    extra,  # (E, D)
    class_row,  # (D,)
    mask_row,  # (D,)
    weight,  # (D,)
    bias,  # (D,)
    source,  # (N,) int64
    position_id,  # (N,) int64
    extra_id,  # (N,) int64
    out,  # (N, D)
    mean,  # (N,) fp32
    inverse_std,  # (N,) fp32
    count,
    row_count,
    position_count,
    extra_count,
    eps,
    width: tl.constexpr,
    HAS_CLASS: tl.constexpr,
    HAS_MASK: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Write ROWS normalised rows and their statistics; grid (row blocks,)."""
    at = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    d = tl.arange(0, BLOCK_D)
    columns = d < width
    x = _sum_of_embeddings(
        rows, position, extra, class_row, mask_row, source, position_id, extra_id, at, d,
        count, row_count, position_count, extra_count, width, HAS_CLASS, HAS_MASK,
    )  # fmt: skip
    average = tl.sum(x, 1) / width
    centred = tl.where(columns[None, :], x - average[:, None], 0.0)
    inverse = tl.rsqrt(tl.sum(centred * centred, 1) / width + eps)
    w = tl.load(weight + d, mask=columns, other=0.0).to(tl.float32)
    b = tl.load(bias + d, mask=columns, other=0.0).to(tl.float32)
    y = centred * inverse[:, None] * w[None, :] + b[None, :]
    inside = at < count
    tl.store(mean + at, average, mask=inside)
    tl.store(inverse_std + at, inverse, mask=inside)
    to = out + at[:, None] * width + d[None, :]
    tl.store(to, y.to(out.dtype.element_ty), mask=inside[:, None] & columns[None, :])


@triton.jit
def backward_kernel(
    d_out,  # (N, D)
    rows,  # (R, D)
    position,  # (P, D)
    extra,  # (E, D)
    class_row,  # (D,)
    mask_row,  # (D,)
    weight,  # (D,)
    source,  # (N,) int64
    position_id,  # (N,) int64
    extra_id,  # (N,) int64
    mean,  # (N,) fp32
    inverse_std,  # (N,) fp32
    d_x,  # (N, D)
    d_weight,  # (programs, D) fp32 partial sums
    d_bias,  # (programs, D) fp32 partial sums
    count,
    row_count,
    position_count,
    extra_count,
    width: tl.constexpr,
    HAS_CLASS: tl.constexpr,
    HAS_MASK: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Write the gradient of x and this program's share of LayerNorm's gradients; grid (programs,)."""
    d = tl.arange(0, BLOCK_D)
    columns = d < width
    w = tl.load(weight + d, mask=columns, other=0.0).to(tl.float32)
    weight_sum = tl.zeros((BLOCK_D,), dtype=tl.float32)
    bias_sum = tl.zeros((BLOCK_D,), dtype=tl.float32)
    for first in range(tl.program_id(0) * ROWS, count, tl.num_programs(0) * ROWS):
        at = tl.cast(first, tl.int64) + tl.arange(0, ROWS)
        inside = at < count
        x = _sum_of_embeddings(
            rows, position, extra, class_row, mask_row, source, position_id, extra_id, at, d,
            count, row_count, position_count, extra_count, width, HAS_CLASS, HAS_MASK,
        )  # fmt: skip
        average = tl.load(mean + at, mask=inside, other=0.0)
        inverse = tl.load(inverse_std + at, mask=inside, other=0.0)
        both = inside[:, None] & columns[None, :]
        normalised = tl.where(both, (x - average[:, None]) * inverse[:, None], 0.0)
        dy = tl.load(d_out + at[:, None] * width + d[None, :], mask=both, other=0.0).to(tl.float32)
        weight_sum += tl.sum(dy * normalised, 0)
        bias_sum += tl.sum(dy, 0)
        dy *= w[None, :]
        along = tl.sum(dy * normalised, 1) / width
        dx = (dy - normalised * along[:, None] - (tl.sum(dy, 1) / width)[:, None]) * inverse[:, None]
        tl.store(d_x + at[:, None] * width + d[None, :], dx.to(d_x.dtype.element_ty), mask=both)
    to = tl.program_id(0).to(tl.int64) * width + d
    tl.store(d_weight + to, weight_sum, mask=columns)
    tl.store(d_bias + to, bias_sum, mask=columns)


FORWARD = "scl_kernels::masked_gather"
BACKWARD = "scl_kernels::masked_gather_backward"
_TABLES = "Tensor rows, Tensor position, Tensor extra, Tensor? class_row, Tensor? mask_row, Tensor weight"
_INDICES = "Tensor source, Tensor position_id, Tensor extra_id"
torch.library.define(FORWARD, f"({_TABLES}, Tensor bias, {_INDICES}, float eps) -> (Tensor, Tensor, Tensor)")
torch.library.define(
    BACKWARD, f"(Tensor d_out, {_TABLES}, {_INDICES}, Tensor mean, Tensor inverse_std) -> (Tensor, Tensor, Tensor)"
)


# `define`, `impl` and a Function instead of `custom_op`, whose wrappers take longer than a small launch.
@torch.library.impl(FORWARD, "CompositeExplicitAutograd")
def _forward(
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
) -> tuple[Tensor, Tensor, Tensor]:
    """Launch the forward kernel: the output (N, D), mean (N,) and 1 / standard deviation (N,) in fp32."""
    count, width = source.shape[0], rows.shape[1]
    out = rows.new_empty(count, width)
    mean, inverse_std = (rows.new_empty(count, dtype=torch.float32) for _ in range(2))
    if count:
        tables = (rows, position, extra, class_row, mask_row, weight, bias, source, position_id, extra_id)
        forward_kernel[(cdiv(count, FORWARD_ROWS),)](
            *(weight if tensor is None else tensor.contiguous() for tensor in tables),
            out,
            mean,
            inverse_std,
            count,
            rows.shape[0],
            position.shape[0],
            extra.shape[0],
            eps,
            width,
            HAS_CLASS=class_row is not None,
            HAS_MASK=mask_row is not None,
            ROWS=FORWARD_ROWS,
            BLOCK_D=power_of_two(width),
            num_warps=4,
        )
    return out, mean, inverse_std


@torch.library.register_fake(FORWARD)
def _(rows, position, extra, class_row, mask_row, weight, bias, source, position_id, extra_id, eps):
    count = source.shape[0]
    statistics = (rows.new_empty(count, dtype=torch.float32) for _ in range(2))
    return rows.new_empty(count, rows.shape[1]), *statistics


@torch.library.impl(BACKWARD, "CompositeExplicitAutograd")
def _backward(
    d_out: Tensor,
    rows: Tensor,
    position: Tensor,
    extra: Tensor,
    class_row: Tensor | None,
    mask_row: Tensor | None,
    weight: Tensor,
    source: Tensor,
    position_id: Tensor,
    extra_id: Tensor,
    mean: Tensor,
    inverse_std: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Launch the backward kernel and the segment sum.

    Returns:
        Gradients of mask token, [CLS], rows, positions and extra rows in one (2 + R + P + E, D), of weight and of bias.
    """
    count, width = d_out.shape
    row_count = rows.shape[0]
    programs = min(BACKWARD_PROGRAMS, cdiv(count, BACKWARD_ROWS))
    d_x = rows.new_empty(count, width)
    d_weight, d_bias = (rows.new_empty(programs, width, dtype=torch.float32) for _ in range(2))
    if count:
        tables = (d_out, rows, position, extra, class_row, mask_row, weight, source, position_id, extra_id)
        backward_kernel[(programs,)](
            *(weight if tensor is None else tensor.contiguous() for tensor in tables),
            mean,
            inverse_std,
            d_x,
            d_weight,
            d_bias,
            count,
            row_count,
            position.shape[0],
            extra.shape[0],
            width,
            HAS_CLASS=class_row is not None,
            HAS_MASK=mask_row is not None,
            ROWS=BACKWARD_ROWS,
            BLOCK_D=power_of_two(width),
            num_warps=4,
        )
    sizes = (row_count - MASK_ROW, position.shape[0], extra.shape[0])
    destination = joint_destination((source - MASK_ROW, position_id, extra_id), sizes)
    if count <= SMALL:
        joint = sum_by_index(d_x.repeat(3, 1), destination, sum(sizes))
    else:
        joint = segment_sum(d_x, destination, sum(sizes))
    return joint, d_weight.sum(0), d_bias.sum(0)


@torch.library.register_fake(BACKWARD)
def _(d_out, rows, position, extra, class_row, mask_row, weight, source, position_id, extra_id, mean, inverse_std):
    joint = rows.new_empty(rows.shape[0] - MASK_ROW + position.shape[0] + extra.shape[0], rows.shape[1])
    return joint, *(rows.new_empty(rows.shape[1], dtype=torch.float32) for _ in range(2))


@register_flop_formula([torch.ops.scl_kernels.masked_gather, torch.ops.scl_kernels.masked_gather_backward])
def no_flops(*args, out_shape=None, **kwargs) -> int:
    """Count nothing: as in PyTorch's counter, only matrix products count."""
    return 0


class _MaskedGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        """Gather; `inputs` as of the operator."""
        *tables, bias, source, position_id, extra_id, _ = inputs
        out, mean, inverse_std = torch.ops.scl_kernels.masked_gather(*inputs)
        ctx.save_for_backward(*tables, source, position_id, extra_id, mean, inverse_std)
        ctx.bias_dtype = bias.dtype
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple:
        """Take the joint table of gradients apart."""
        saved = ctx.saved_tensors  # a checkpoint gives them out once
        _, position, extra, class_row, mask_row, weight, *_ = saved
        joint, d_weight, d_bias = torch.ops.scl_kernels.masked_gather_backward(d_out, *saved)
        first, second = joint.shape[0] - position.shape[0] - extra.shape[0], joint.shape[0] - extra.shape[0]
        return (
            joint[-MASK_ROW:first],
            joint[first:second].to(position.dtype),
            joint[second:].to(extra.dtype),
            None if class_row is None else joint[CLASS_ROW - MASK_ROW].to(class_row.dtype),
            None if mask_row is None else joint[0].to(mask_row.dtype),
            d_weight.to(weight.dtype),
            d_bias.to(ctx.bias_dtype),
            *[None] * 4,
        )


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
    if resolve(backend, rows, "masked_gather", source.shape[0] * rows.shape[1]) == "triton":
        return _MaskedGather.apply(*tables, *indices, eps)
    return masked_gather_reference(*tables, *indices, eps)


def _validate(
    tables: tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor, Tensor],
    indices: tuple[Tensor, Tensor, Tensor],
    eps: float,
) -> None:
    rows, position, extra, class_row, mask_row, weight, bias = tables
    source, position_id, extra_id = indices
    (_, width), device = check_matrix("rows", rows), rows.device
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
