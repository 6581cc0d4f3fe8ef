"""LayerNorm of rows inside Triton kernels, forward and backward, for every kernel that has one in it."""
# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl


@triton.jit
def normalize(x, weight, bias, d, columns, eps, width: tl.constexpr):
    """Return the normalized rows of fp32 x (ROWS, BLOCK_D), 0 beyond `width`, their mean and 1 / standard deviation."""
    average = tl.sum(x, 1) / width
    centred = tl.where(columns[None, :], x - average[:, None], 0.0)
    inverse = tl.rsqrt(tl.sum(centred * centred, 1) / width + eps)
    w = tl.load(weight + d, mask=columns, other=0.0).to(tl.float32)
    b = tl.load(bias + d, mask=columns, other=0.0).to(tl.float32)
    return centred * inverse[:, None] * w[None, :] + b[None, :], average, inverse


@triton.jit
def gradient(dy, normalized, w, inverse, width: tl.constexpr):
    """Return the gradient of x (ROWS, BLOCK_D) from that of the rows; `w` is the weight, `normalized` without it."""
    dy *= w[None, :]
    along = tl.sum(dy * normalized, 1) / width
    return (dy - normalized * along[:, None] - (tl.sum(dy, 1) / width)[:, None]) * inverse[:, None]
