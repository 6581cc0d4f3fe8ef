"""Triton kernels of `masked_gather`; the backward reads the tables again instead of keeping the sum x."""
# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl

from scl_kernels.layer_norm_rows import gradient, normalize
from scl_kernels.masked_gather.inputs import CLASS_ROW, MASK_ROW

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


@triton.jit(do_not_specialize=["count", "row_count", "position_count", "extra_count"])
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
    """Write ROWS normalized rows and their statistics; grid (row blocks,)."""
    at = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    d = tl.arange(0, BLOCK_D)
    columns = d < width
    x = _sum_of_embeddings(
        rows, position, extra, class_row, mask_row, source, position_id, extra_id, at, d,
        count, row_count, position_count, extra_count, width, HAS_CLASS, HAS_MASK,
    )  # fmt: skip
    y, average, inverse = normalize(x, weight, bias, d, columns, eps, width)
    inside = at < count
    tl.store(mean + at, average, mask=inside)
    tl.store(inverse_std + at, inverse, mask=inside)
    to = out + at[:, None] * width + d[None, :]
    tl.store(to, y.to(out.dtype.element_ty), mask=inside[:, None] & columns[None, :])


@triton.jit(do_not_specialize=["count", "row_count", "position_count", "extra_count"])
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
        normalized = tl.where(both, (x - average[:, None]) * inverse[:, None], 0.0)
        dy = tl.load(d_out + at[:, None] * width + d[None, :], mask=both, other=0.0).to(tl.float32)
        weight_sum += tl.sum(dy * normalized, 0)
        bias_sum += tl.sum(dy, 0)
        dx = gradient(dy, normalized, w, inverse, width)
        tl.store(d_x + at[:, None] * width + d[None, :], dx.to(d_x.dtype.element_ty), mask=both)
    to = tl.program_id(0).to(tl.int64) * width + d
    tl.store(d_weight + to, weight_sum, mask=columns)
    tl.store(d_bias + to, bias_sum, mask=columns)
