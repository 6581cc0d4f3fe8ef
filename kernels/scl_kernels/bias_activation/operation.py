"""Bias and activation behind a matrix product: one pass forward, one backward, and nothing kept but the product.

In this order: the launches as operators, autograd, the public function.
"""
# mypy: disable-error-code="no-untyped-def"

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from scl_kernels.backend import Backend, resolve
from scl_kernels.bias_activation.kernel import backward_kernel, forward_kernel
from scl_kernels.bias_activation.reference import ACTIVATIONS, bias_activation_reference
from scl_kernels.sizes import cdiv, power_of_two
from scl_kernels.validation import check_matrix, check_tensor

ROWS = 4
"""Rows of a tile."""
COLUMNS = 512
"""Most columns of a tile."""
BACKWARD_PROGRAMS = 512
"""Most programs of a block of columns in the backward pass, and so most partial sums of the bias's gradient."""

FORWARD = "scl_kernels::bias_activation"
BACKWARD = "scl_kernels::bias_activation_backward"
torch.library.define(FORWARD, "(Tensor x, Tensor bias, str activation) -> Tensor")
torch.library.define(BACKWARD, "(Tensor d_out, Tensor x, Tensor bias, str activation) -> (Tensor, Tensor)")


def block_of(width: int) -> int:
    """Return the columns of a tile."""
    return min(COLUMNS, power_of_two(width))


@torch.library.impl(FORWARD, "CompositeExplicitAutograd")
def _forward(x: Tensor, bias: Tensor, activation: str) -> Tensor:
    """Launch the forward kernel: (N, D)."""
    count, width = x.shape
    out, block = x.new_empty(count, width), block_of(width)
    if count:
        forward_kernel[(cdiv(count, ROWS), cdiv(width, block))](
            x.contiguous(),
            bias.contiguous(),
            out,
            count,
            width,
            ACTIVATION=activation,
            ROWS=ROWS,
            BLOCK_D=block,
            num_warps=4,
        )
    return out


@torch.library.register_fake(FORWARD)
def _(x, bias, activation):
    return x.new_empty(x.shape)


@torch.library.impl(BACKWARD, "CompositeExplicitAutograd")
def _backward(d_out: Tensor, x: Tensor, bias: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    """Launch the backward kernel: gradients of x (N, D) and of the bias (D,) in fp32."""
    count, width = x.shape
    block, programs = block_of(width), min(BACKWARD_PROGRAMS, cdiv(count, ROWS))
    d_x, d_bias = x.new_empty(count, width), x.new_empty(programs, width, dtype=torch.float32)
    if count:
        backward_kernel[(programs, cdiv(width, block))](
            d_out.contiguous(),
            x.contiguous(),
            bias.contiguous(),
            d_x,
            d_bias,
            count,
            width,
            ACTIVATION=activation,
            ROWS=ROWS,
            BLOCK_D=block,
            num_warps=4,
        )
    return d_x, d_bias.sum(0)


@torch.library.register_fake(BACKWARD)
def _(d_out, x, bias, activation):
    return x.new_empty(x.shape), x.new_empty(x.shape[1], dtype=torch.float32)


@register_flop_formula([torch.ops.scl_kernels.bias_activation, torch.ops.scl_kernels.bias_activation_backward])
def no_flops(*args, out_shape=None, **kwargs) -> int:
    """Count nothing: as in PyTorch's counter, only matrix products count."""
    return 0


class _BiasActivation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, activation: str) -> Tensor:
        """Keep the product and the bias."""
        ctx.activation = activation
        ctx.save_for_backward(x, bias)
        return torch.ops.scl_kernels.bias_activation(x, bias, activation)

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple:
        """Compute the derivative again."""
        x, bias = ctx.saved_tensors
        d_x, d_bias = torch.ops.scl_kernels.bias_activation_backward(d_out, x, bias, ctx.activation)
        return d_x, d_bias.to(bias.dtype), None


def bias_activation(x: Tensor, bias: Tensor, activation: str, *, backend: Backend = "auto") -> Tensor:
    """Return activation(x + bias).

    Differentiable in x and bias; the bias's gradient is summed in a fixed order (bitwise repeatable).

    Args:
        x: (N, D) a matrix product without its bias; N may be 0.
        bias: (D,).
        activation: `quick_gelu` (CLIP), `gelu` (by the error function) or `gelu_tanh`.
        backend: `auto`, `triton` or `torch`.

    Returns:
        (N, D) in `x`' dtype.

    Raises:
        ValueError: An argument has the wrong shape, dtype or device, or the activation is none of these.
    """
    _, width = check_matrix("x", x)
    check_tensor("bias", bias, shape=(width,), device=x.device)
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}; choose one of {', '.join(ACTIVATIONS)}")
    if resolve(backend, x, "bias_activation", x.numel()) == "triton":
        return _BiasActivation.apply(x, bias, activation)
    return bias_activation_reference(x, bias, activation)


def linear_activation(x: Tensor, weight: Tensor, bias: Tensor, activation: str, *, backend: Backend = "auto") -> Tensor:
    """Return activation(x @ weight.T + bias): the bias goes to whoever reads the product anyway.

    Args:
        x: (N, C).
        weight: (D, C).
        bias: (D,).
        activation: As of `bias_activation`.
        backend: `auto`, `triton` or `torch`, of what follows the product.

    Returns:
        (N, D) in `x`' dtype.
    """
    if resolve(backend, x, "bias_activation", x.shape[0] * weight.shape[0]) == "triton":
        return bias_activation(F.linear(x, weight), bias, activation, backend="triton")
    return ACTIVATIONS[activation](F.linear(x, weight, bias))
