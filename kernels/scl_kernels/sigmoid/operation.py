"""SigLIP's pairwise sigmoid loss over the global batch (arXiv 2303.15343), without an N x N matrix in any direction.

Every pair of two modalities' rows is a decision of its own, so ranks need nothing of each other but the gathered rows:
one call gives the loss of the local rows and the exact gradient of the global loss. Nothing in here communicates.
"""
# mypy: disable-error-code="no-untyped-def"

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from scl_kernels.backend import Backend, resolve
from scl_kernels.dtypes import compute_dtype
from scl_kernels.pairwise.duplicates import Treatment
from scl_kernels.pairwise.launch import row_sides, sides
from scl_kernels.sigmoid import launch, reference
from scl_kernels.sigmoid.arguments import SigmoidProblem, check_problem

__all__ = ["SigmoidProblem", "sigmoid_loss"]

STATISTICS = "scl_kernels::sigmoid_statistics"
BACKWARD = "scl_kernels::sigmoid_backward"
_DUPLICATES = "Tensor? numbers=None, str duplicates='negatives'"
torch.library.define(
    STATISTICS,
    f"(Tensor a, Tensor b_all, Tensor scale, Tensor bias, int offset, str backend, {_DUPLICATES}) -> Tensor",
)
torch.library.define(
    BACKWARD,
    "(Tensor d_loss, Tensor a, Tensor b, Tensor a_all, Tensor b_all, Tensor scale, Tensor bias, Tensor weight_all, "
    f"int offset, str backend, {_DUPLICATES}) -> (Tensor, Tensor)",
)


@torch.library.impl(STATISTICS, "CompositeExplicitAutograd")
def _statistics(
    a: Tensor,
    b_all: Tensor,
    scale: Tensor,
    bias: Tensor,
    offset: int,
    backend: str,
    numbers: Tensor | None = None,
    duplicates: Treatment = "negatives",
) -> Tensor:
    """Return (3, n): see `reference.row_sums`."""
    if backend == "triton":
        tasks = row_sides([a], [b_all], [offset], None if numbers is None else [numbers], duplicates)
        return launch.row_sums(tasks, 1 / scale.reshape(1), bias.reshape(1))
    return reference.row_sums(a, b_all, reference.Logits(scale, bias, offset, numbers, duplicates))


@torch.library.register_fake(STATISTICS)
def _(a, b_all, scale, bias, offset, backend, numbers=None, duplicates="negatives"):
    return a.new_empty(3, a.shape[0], dtype=compute_dtype(a.dtype))


@torch.library.impl(BACKWARD, "CompositeExplicitAutograd")
def _gradients(
    d_loss: Tensor,
    a: Tensor,
    b: Tensor,
    a_all: Tensor,
    b_all: Tensor,
    scale: Tensor,
    bias: Tensor,
    weight_all: Tensor,
    offset: int,
    backend: str,
    numbers: Tensor | None = None,
    duplicates: Treatment = "negatives",
) -> tuple[Tensor, Tensor]:
    """Return the gradients of a and b."""
    weight = weight_all.to(d_loss.dtype).contiguous()
    if backend == "triton":
        tasks = sides([a], [b], [a_all], [b_all], [offset], None if numbers is None else [numbers], duplicates)
        temperature = 1 / scale.reshape(1)
        d_a, d_b = launch.gradients(tasks, temperature, bias.reshape(1), d_loss.reshape(1), weight)
        return d_a, d_b
    weight = weight * d_loss
    logits = reference.Logits(scale, bias, offset, numbers, duplicates)
    d_a = reference.side_gradient(a, b_all, logits, weight[offset : offset + a.shape[0]], None)
    d_b = reference.side_gradient(b, a_all, logits, None, weight)
    return d_a, d_b


@torch.library.register_fake(BACKWARD)
def _(
    d_loss, a, b, a_all, b_all, scale, bias, weight_all, offset, backend, numbers=None, duplicates="negatives"
):  # fmt: skip
    return torch.empty_like(a), torch.empty_like(b)


class _LocalShare(torch.autograd.Function):
    """The local rows' share of the loss with the gradient of the global one."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        """Return (); `inputs`: a, b, a_all, b_all, scale, bias, weight_all, offset, backend, numbers, duplicates."""
        a, _, _, b_all, scale, bias, weight_all, *rest = inputs
        offset = rest[0]
        sums = torch.ops.scl_kernels.sigmoid_statistics(a, b_all, scale, bias, *rest)
        weight = weight_all[offset : offset + a.shape[0]].to(sums.dtype)
        loss, d_bias, d_logits = (sums * weight).sum(1).unbind()
        # scale cos = S - bias; in fp32 from the forward pass, where the backward's dS may be bf16
        ctx.save_for_backward(*inputs[:7], (d_logits - bias * d_bias) / scale, d_bias)
        ctx.rest = rest
        return loss

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor) -> tuple:
        """Return the gradients of a, b, scale and bias."""
        *tensors, d_scale, d_bias = ctx.saved_tensors
        d_a, d_b = torch.ops.scl_kernels.sigmoid_backward(d_loss, *tensors, *ctx.rest)
        return d_a, d_b, None, None, d_loss * d_scale, d_loss * d_bias, None, None, None, None, None


@register_flop_formula(torch.ops.scl_kernels.sigmoid_statistics)
def statistics_flops(a_shape, b_all_shape, *args, out_shape=None, **kwargs) -> int:
    """Count n x N inner products of length D, two operations each."""
    return 2 * a_shape[0] * b_all_shape[0] * a_shape[1]


@register_flop_formula(torch.ops.scl_kernels.sigmoid_backward)
def backward_flops(d_loss_shape, a_shape, b_shape, a_all_shape, *args, out_shape=None, **kwargs) -> int:
    """Count the similarities and their product with the global rows, in two directions."""
    return 4 * statistics_flops(a_shape, a_all_shape)


def sigmoid_loss(problem: SigmoidProblem, *, backend: Backend = "auto") -> Tensor:
    """Compute the local share of the pairwise sigmoid loss, with the exact gradient of the global one.

    S_ij = scale <a_i, b_j> + bias of L2-normalized rows (norms clamped at 1e-8); the loss is the sum over i of
    w_i sum_j softplus(-z_ij S_ij), z_ij = 1 for i = j and -1 elsewhere; statistics in fp32 (fp64 for fp64). The value
    is the sum over local i; summed over the ranks it is the global loss. The gradient of a_i and b_j is that of the
    global sum, with dS_ij = w_i (sigmoid(S_ij) - [i = j]); that of scale and bias is the local rows' share, so that
    the sum (not the mean) over ranks is exact. Duplicates that are ignored are left out of the sum over j; as
    positives they have z_ij = 1.

    Args:
        problem: Rows, scale, bias and weights.
        backend: `auto`, `triton` or `torch`.

    Returns:
        () the loss, fp32 (fp64 for fp64 rows).

    Raises:
        ValueError: A field has the wrong shape, dtype, device or offset; the scale, bias or a weight is none (read
            always on CPU, elsewhere under SCL_KERNELS_DEBUG=1, which also compares local with gathered rows).
    """
    treatment, duplicates = check_problem(problem), problem.duplicates
    dtype = compute_dtype(problem.a.dtype)
    return _LocalShare.apply(
        problem.a,
        problem.b,
        problem.a_all.detach(),
        problem.b_all.detach(),
        problem.scale.to(dtype),
        problem.bias.to(dtype),
        problem.weight_all.detach(),
        problem.offset,
        resolve(backend, problem.a),
        None if duplicates is None else duplicates.numbers,
        treatment,
    )
