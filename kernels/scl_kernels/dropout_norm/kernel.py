"""Triton kernels of `dropout_add_norm`; the backward draws again what the forward dropped."""
# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl

from scl_kernels.dropout_norm import draws
from scl_kernels.layer_norm_rows import gradient, normalize

_GOLDEN_64 = tl.constexpr(draws.GOLDEN_64)
_MIX_64_FIRST = tl.constexpr(draws.MIX_64[0])
_MIX_64_SECOND = tl.constexpr(draws.MIX_64[1])
_GOLDEN_32 = tl.constexpr(draws.GOLDEN_32)
_MIX_32_FIRST = tl.constexpr(draws.MIX_32[0])
_MIX_32_SECOND = tl.constexpr(draws.MIX_32[1])


@triton.jit
def kept(keys, at, inside, d, site, threshold):
    """Return (rows of `at`, BLOCK_D), whether dropout keeps an element: `draws.kept`, bit for bit."""
    z = tl.load(keys + at, mask=inside, other=0).to(tl.uint64, bitcast=True)
    z += tl.cast(site, tl.uint64) * tl.full((1,), _GOLDEN_64, tl.uint64)
    z = (z ^ (z >> 30)) * tl.full((1,), _MIX_64_FIRST, tl.uint64)
    z = (z ^ (z >> 27)) * tl.full((1,), _MIX_64_SECOND, tl.uint64)
    z = z ^ (z >> 31)
    first, second = z.to(tl.uint32), (z >> 32).to(tl.uint32)
    x = first[:, None] + d.to(tl.uint32)[None, :] * tl.full((1, 1), _GOLDEN_32, tl.uint32)
    x = ((x ^ (x >> 16)) * tl.full((1, 1), _MIX_32_FIRST, tl.uint32)) ^ second[:, None]
    x = (x ^ (x >> 13)) * tl.full((1, 1), _MIX_32_SECOND, tl.uint32)
    return x.to(tl.int32, bitcast=True) >= threshold


@triton.jit(do_not_specialize=["count", "site", "threshold"])
def forward_kernel(
    branch,  # (N, D)
    residual,  # (N, D)
    weight,  # (D,)
    bias,  # (D,)
    keys,  # (N,) int64
    total,  # (N, D)
    out,  # (N, D)
    mean,  # (N,) fp32
    inverse_std,  # (N,) fp32
    count,
    site,
    threshold,
    scale,
    eps,
    width: tl.constexpr,
    DROPS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Write ROWS sums, their normalized rows and statistics; grid (row blocks,)."""
    at = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    d = tl.arange(0, BLOCK_D)
    inside, columns = at < count, d < width
    both = inside[:, None] & columns[None, :]
    place = at[:, None] * width + d[None, :]
    x = tl.load(branch + place, mask=both, other=0.0).to(tl.float32)
    if DROPS:
        x = tl.where(kept(keys, at, inside, d, site, threshold), x * scale, 0.0)
    x += tl.load(residual + place, mask=both, other=0.0).to(tl.float32)
    rounded = x.to(total.dtype.element_ty)
    tl.store(total + place, rounded, mask=both)
    x = rounded.to(tl.float32)
    y, average, inverse = normalize(x, weight, bias, d, columns, eps, width)
    tl.store(mean + at, average, mask=inside)
    tl.store(inverse_std + at, inverse, mask=inside)
    tl.store(out + place, y.to(out.dtype.element_ty), mask=both)


@triton.jit(do_not_specialize=["count", "site", "threshold"])
def backward_kernel(
    d_out,  # (N, D)
    d_total,  # (N, D); read where HAS_D_TOTAL
    total,  # (N, D)
    weight,  # (D,)
    keys,  # (N,) int64
    mean,  # (N,) fp32
    inverse_std,  # (N,) fp32
    d_branch,  # (N, D); written where DROPS
    d_residual,  # (N, D)
    d_weight,  # (programs, D) fp32 partial sums
    d_bias,  # (programs, D) fp32 partial sums
    count,
    site,
    threshold,
    scale,
    width: tl.constexpr,
    DROPS: tl.constexpr,
    HAS_D_TOTAL: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Write the gradients of both inputs and this program's share of LayerNorm's; grid (programs,)."""
    d = tl.arange(0, BLOCK_D)
    columns = d < width
    w = tl.load(weight + d, mask=columns, other=0.0).to(tl.float32)
    weight_sum = tl.zeros((BLOCK_D,), dtype=tl.float32)
    bias_sum = tl.zeros((BLOCK_D,), dtype=tl.float32)
    for first in range(tl.program_id(0) * ROWS, count, tl.num_programs(0) * ROWS):
        at = tl.cast(first, tl.int64) + tl.arange(0, ROWS)
        inside = at < count
        both = inside[:, None] & columns[None, :]
        place = at[:, None] * width + d[None, :]
        average = tl.load(mean + at, mask=inside, other=0.0)
        inverse = tl.load(inverse_std + at, mask=inside, other=0.0)
        x = tl.load(total + place, mask=both, other=0.0).to(tl.float32)
        normalized = tl.where(both, (x - average[:, None]) * inverse[:, None], 0.0)
        dy = tl.load(d_out + place, mask=both, other=0.0).to(tl.float32)
        weight_sum += tl.sum(dy * normalized, 0)
        bias_sum += tl.sum(dy, 0)
        dx = gradient(dy, normalized, w, inverse, width)
        if HAS_D_TOTAL:
            dx += tl.load(d_total + place, mask=both, other=0.0).to(tl.float32)
        tl.store(d_residual + place, dx.to(d_residual.dtype.element_ty), mask=both)
        if DROPS:
            dx = tl.where(kept(keys, at, inside, d, site, threshold), dx * scale, 0.0)
            tl.store(d_branch + place, dx.to(d_branch.dtype.element_ty), mask=both)
    to = tl.program_id(0).to(tl.int64) * width + d
    tl.store(d_weight + to, weight_sum, mask=columns)
    tl.store(d_bias + to, bias_sum, mask=columns)
