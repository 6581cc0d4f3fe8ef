"""Dropout + residual + LayerNorm in one pass either way: the end of a sub-layer, or the start of the next one.

In this order: the launches as operators, autograd, the public function.
"""
# mypy: disable-error-code="no-untyped-def"

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from scl_kernels.backend import Backend, resolve
from scl_kernels.dropout_norm.draws import threshold
from scl_kernels.dropout_norm.kernel import backward_kernel, forward_kernel
from scl_kernels.dropout_norm.reference import dropout_add_norm_reference
from scl_kernels.sizes import cdiv, power_of_two
from scl_kernels.validation import check_matrix, check_tensor

FORWARD_ROWS = 2
"""Rows of a tile in the forward pass."""
BACKWARD_ROWS = 2
"""Rows of a tile in the backward pass."""
BACKWARD_PROGRAMS = 1024
"""Most programs of the backward pass, and so most partial sums of LayerNorm's gradients."""

FORWARD = "scl_kernels::dropout_add_norm"
BACKWARD = "scl_kernels::dropout_add_norm_backward"
torch.library.define(
    FORWARD,
    "(Tensor branch, Tensor residual, Tensor weight, Tensor bias, Tensor? keys, int site, float dropout, float eps)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
)
torch.library.define(
    BACKWARD,
    "(Tensor d_out, Tensor? d_total, Tensor total, Tensor weight, Tensor? keys, Tensor mean, Tensor inverse_std, "
    "int site, float dropout) -> (Tensor?, Tensor, Tensor, Tensor)",
)


def _constants(dropout: float) -> tuple[int, float]:
    """Return the least draw that is kept and what it is multiplied by."""
    return threshold(dropout), 1 / (1 - dropout)


@torch.library.impl(FORWARD, "CompositeExplicitAutograd")
def _forward(
    branch: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    keys: Tensor | None,
    site: int,
    dropout: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Launch the forward kernel: normalized rows and sums (N, D), mean and 1 / standard deviation (N,) in fp32."""
    count, width = branch.shape
    out, total = (branch.new_empty(count, width) for _ in range(2))
    mean, inverse_std = (branch.new_empty(count, dtype=torch.float32) for _ in range(2))
    if count:
        forward_kernel[(cdiv(count, FORWARD_ROWS),)](
            branch.contiguous(),
            residual.contiguous(),
            weight.contiguous(),
            bias.contiguous(),
            weight if keys is None else keys.contiguous(),
            total,
            out,
            mean,
            inverse_std,
            count,
            site,
            *_constants(dropout),
            eps,
            width,
            DROPS=keys is not None,
            ROWS=FORWARD_ROWS,
            BLOCK_D=power_of_two(width),
            num_warps=4,
        )
    return out, total, mean, inverse_std


@torch.library.register_fake(FORWARD)
def _(branch, residual, weight, bias, keys, site, dropout, eps):
    statistics = (branch.new_empty(branch.shape[0], dtype=torch.float32) for _ in range(2))
    return branch.new_empty(branch.shape), branch.new_empty(branch.shape), *statistics


@torch.library.impl(BACKWARD, "CompositeExplicitAutograd")
def _backward(
    d_out: Tensor,
    d_total: Tensor | None,
    total: Tensor,
    weight: Tensor,
    keys: Tensor | None,
    mean: Tensor,
    inverse_std: Tensor,
    site: int,
    dropout: float,
) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
    """Launch the backward kernel: gradients of branch (None where it is the residual's), residual, weight, bias."""
    count, width = total.shape
    programs = min(BACKWARD_PROGRAMS, cdiv(count, BACKWARD_ROWS))
    d_residual = total.new_empty(count, width)
    d_branch = None if keys is None else total.new_empty(count, width)
    d_weight, d_bias = (total.new_empty(programs, width, dtype=torch.float32) for _ in range(2))
    if count:
        backward_kernel[(programs,)](
            d_out.contiguous(),
            d_out if d_total is None else d_total.contiguous(),
            total,
            weight.contiguous(),
            weight if keys is None else keys.contiguous(),
            mean,
            inverse_std,
            d_residual if d_branch is None else d_branch,
            d_residual,
            d_weight,
            d_bias,
            count,
            site,
            *_constants(dropout),
            width,
            DROPS=keys is not None,
            HAS_D_TOTAL=d_total is not None,
            ROWS=BACKWARD_ROWS,
            BLOCK_D=power_of_two(width),
            num_warps=4,
        )
    return d_branch, d_residual, d_weight.sum(0), d_bias.sum(0)


@torch.library.register_fake(BACKWARD)
def _(d_out, d_total, total, weight, keys, mean, inverse_std, site, dropout):
    vectors = (total.new_empty(total.shape[1], dtype=torch.float32) for _ in range(2))
    return None if keys is None else torch.empty_like(total), torch.empty_like(total), *vectors


@register_flop_formula([torch.ops.scl_kernels.dropout_add_norm, torch.ops.scl_kernels.dropout_add_norm_backward])
def no_flops(*args, out_shape=None, **kwargs) -> int:
    """Count nothing: as in PyTorch's counter, only matrix products count."""
    return 0


class _DropoutAddNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        """Launch; `inputs` as of the operator."""
        ctx.set_materialize_grads(False)
        out, total, mean, inverse_std = torch.ops.scl_kernels.dropout_add_norm(*inputs)
        _, _, weight, bias, keys, ctx.site, ctx.dropout, _ = inputs
        ctx.bias_dtype = bias.dtype
        ctx.save_for_backward(total, weight, keys, mean, inverse_std)
        return out, total

    @staticmethod
    def backward(ctx: Any, d_out: Tensor | None, d_total: Tensor | None) -> tuple:
        """Draw again what was dropped."""
        total, weight, keys, mean, inverse_std = ctx.saved_tensors
        d_out = torch.zeros_like(total) if d_out is None else d_out
        d_branch, d_residual, d_weight, d_bias = torch.ops.scl_kernels.dropout_add_norm_backward(
            d_out, d_total, total, weight, keys, mean, inverse_std, ctx.site, ctx.dropout
        )
        first = d_residual if d_branch is None else d_branch
        return first, d_residual, d_weight.to(weight.dtype), d_bias.to(ctx.bias_dtype), *[None] * 4


def dropout_add_norm(
    branch: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    keys: Tensor | None,
    site: int,
    dropout: float,
    eps: float,
    *,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:
    """Add a sub-layer's output to the residual stream and normalize.

    total = dropout(branch) + residual; y = LayerNorm(total) * weight + bias, statistics in fp32.
    What is dropped follows from keys, site and column (`draws.kept`), the same in either pass and on any device.
    Differentiable in the first four arguments; sums are taken in a fixed order (bitwise repeatable).

    Args:
        branch: (N, D) output of the sub-layer; N may be 0.
        residual: (N, D).
        weight: (D,) LayerNorm's weight.
        bias: (D,) LayerNorm's bias.
        keys: (N,) int64, one a row; None only where nothing is dropped.
        site: Where in the model, from 0; two sites drop independently.
        dropout: Share that is dropped, in [0, 1).
        eps: LayerNorm's epsilon.
        backend: `auto`, `triton` or `torch`.

    Returns:
        (N, D) normalized rows and (N, D) sums, in `branch`' dtype.

    Raises:
        ValueError: An argument has the wrong shape, dtype, device or value, or something is to be dropped without keys.
    """
    shape = check_matrix("branch", branch)
    check_tensor("residual", residual, shape=shape, dtypes=(branch.dtype,), device=branch.device)
    for name, vector in (("weight", weight), ("bias", bias)):
        check_tensor(name, vector, shape=shape[1:], device=branch.device)
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}; expected a share in [0, 1)")
    if dropout == 0:
        keys = None
    elif keys is None:
        raise ValueError(f"dropout {dropout:g} needs the rows' keys, got None; pass (N,) int64")
    else:
        check_tensor("keys", keys, shape=shape[:1], dtypes=(torch.int64,), device=branch.device)
    inputs = (branch, residual, weight, bias, keys, site, dropout, eps)
    if resolve(backend, branch, "dropout_norm", branch.numel()) == "triton":
        return _DropoutAddNorm.apply(*inputs)
    return dropout_add_norm_reference(*inputs)
