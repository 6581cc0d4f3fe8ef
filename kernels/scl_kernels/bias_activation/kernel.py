"""Triton kernels of `bias_activation`; the backward computes the activation's derivative again from its input."""
# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl

_SQRT_HALF = tl.constexpr(0.7071067811865476)
_INVERSE_SQRT_2_PI = tl.constexpr(0.3989422804014327)
_SQRT_8_OVER_PI = tl.constexpr(1.5957691216057308)
_CUBIC = tl.constexpr(0.044715)
_QUICK = tl.constexpr(1.702)


@triton.jit
def _value_and_slope(x, ACTIVATION: tl.constexpr):
    """Return the activation of fp32 values, and its derivative."""
    if ACTIVATION == "quick_gelu":
        s = tl.sigmoid(x * _QUICK)
        return x * s, s * (1 + x * _QUICK * (1 - s))
    elif ACTIVATION == "gelu":
        s = 0.5 * (1 + tl.erf(x * _SQRT_HALF))
        return x * s, s + x * _INVERSE_SQRT_2_PI * tl.exp(-0.5 * x * x)
    else:  # (1 + tanh(u)) / 2 is sigmoid(2 u)
        s = tl.sigmoid((x + x * x * x * _CUBIC) * _SQRT_8_OVER_PI)
        return x * s, s + x * s * (1 - s) * _SQRT_8_OVER_PI * (1 + x * x * (3 * _CUBIC))


@triton.jit(do_not_specialize=["count"])
def forward_kernel(
    x,  # (N, D)
    bias,  # (D,)
    out,  # (N, D)
    count,
    width,
    ACTIVATION: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Write a tile; grid (row blocks, column blocks)."""
    at = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    columns = d < width
    both = (at < count)[:, None] & columns[None, :]
    place = at[:, None] * width + d[None, :]
    b = tl.load(bias + d, mask=columns, other=0.0).to(tl.float32)
    value, _ = _value_and_slope(tl.load(x + place, mask=both, other=0.0).to(tl.float32) + b[None, :], ACTIVATION)
    tl.store(out + place, value.to(out.dtype.element_ty), mask=both)


@triton.jit(do_not_specialize=["count"])
def backward_kernel(
    d_out,  # (N, D)
    x,  # (N, D)
    bias,  # (D,)
    d_x,  # (N, D)
    d_bias,  # (programs, D) fp32 partial sums
    count,
    width,
    ACTIVATION: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Write the gradient of x and this program's share of the bias's; grid (programs, column blocks)."""
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    columns = d < width
    b = tl.load(bias + d, mask=columns, other=0.0).to(tl.float32)
    bias_sum = tl.zeros((BLOCK_D,), dtype=tl.float32)
    for first in range(tl.program_id(0) * ROWS, count, tl.num_programs(0) * ROWS):
        at = tl.cast(first, tl.int64) + tl.arange(0, ROWS)
        both = (at < count)[:, None] & columns[None, :]
        place = at[:, None] * width + d[None, :]
        _, slope = _value_and_slope(tl.load(x + place, mask=both, other=0.0).to(tl.float32) + b[None, :], ACTIVATION)
        dx = tl.load(d_out + place, mask=both, other=0.0).to(tl.float32) * slope
        bias_sum += tl.sum(dx, 0)
        tl.store(d_x + place, dx.to(d_x.dtype.element_ty), mask=both)
    tl.store(d_bias + tl.program_id(0).to(tl.int64) * width + d, bias_sum, mask=columns)
