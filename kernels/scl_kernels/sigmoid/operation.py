"""SigLIP's pairwise sigmoid loss over the global batch (arXiv 2303.15343), without an N x N matrix in any direction.

Every pair of two modalities' rows is a decision of its own, so ranks need nothing of each other but the gathered rows:
one call gives the loss of the local rows and the exact gradient of the global loss. Nothing in here communicates.

A pair's gradient waits for no sum over other pairs, as that of a softmax does, so the forward pass has it: the loss and
the gradients of both sides are four matrix products, and the backward pass multiplies by the gradient of the loss.
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
GRADIENTS = "scl_kernels::sigmoid_gradients"
_DUPLICATES = "Tensor? numbers=None, str duplicates='negatives'"
torch.library.define(
    STATISTICS,
    f"(Tensor a, Tensor b_all, Tensor scale, Tensor bias, int offset, str backend, {_DUPLICATES}) -> Tensor",
)
torch.library.define(
    GRADIENTS,
    "(Tensor d_loss, Tensor a, Tensor b, Tensor a_all, Tensor b_all, Tensor scale, Tensor bias, Tensor weight_all, "
    f"int offset, str backend, {_DUPLICATES}) -> (Tensor, Tensor, Tensor)",
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


@torch.library.impl(GRADIENTS, "CompositeExplicitAutograd")
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
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what the statistics are, and the gradients of a and b."""
    weight = weight_all.to(d_loss.dtype).contiguous()
    if backend == "triton":
        tasks = sides([a], [b], [a_all], [b_all], [offset], None if numbers is None else [numbers], duplicates)
        temperature = 1 / scale.reshape(1)
        sums, (d_a, d_b) = launch.sums_and_gradients(tasks, temperature, bias.reshape(1), d_loss.reshape(1), weight)
        return sums, d_a, d_b
    weight = weight * d_loss
    logits = reference.Logits(scale, bias, offset, numbers, duplicates)
    sums = weight.new_empty(3, a.shape[0])
    d_a = reference.side_gradient(a, b_all, logits, weight[offset : offset + a.shape[0]], None, sums)
    d_b = reference.side_gradient(b, a_all, logits, None, weight)
    return sums, d_a, d_b


@torch.library.register_fake(GRADIENTS)
def _(
    d_loss, a, b, a_all, b_all, scale, bias, weight_all, offset, backend, numbers=None, duplicates="negatives"
):  # fmt: skip
    return d_loss.new_empty(3, a.shape[0]), torch.empty_like(a), torch.empty_like(b)


class _LocalShare(torch.autograd.Function):
    """The local rows' share of the loss with the gradient of the global one."""

    @staticmethod
    def forward(ctx: Any, at_once: bool, *inputs: Any) -> Tensor:
        """Return (); `inputs`: a, b, a_all, b_all, scale, bias, weight_all, offset, backend, numbers, duplicates.

        `at_once`: compute the gradients of a and b too, and keep them for the backward pass.
        """
        a, _, _, b_all, scale, bias, weight_all, *rest = inputs
        offset = rest[0]
        if at_once:
            sums, *kept = torch.ops.scl_kernels.sigmoid_gradients(scale.new_ones(()), *inputs)
        else:
            sums, kept = torch.ops.scl_kernels.sigmoid_statistics(a, b_all, scale, bias, *rest), inputs[:7]
        weight = weight_all[offset : offset + a.shape[0]].to(sums.dtype)
        loss, d_bias, d_logits = (sums * weight).sum(1).unbind()
        # scale cos = S - bias; in fp32 from the forward pass, where the gradients' dS may be bf16
        ctx.save_for_backward((d_logits - bias * d_bias) / scale, d_bias, *kept)
        ctx.at_once, ctx.rest = at_once, rest
        return loss

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor) -> tuple:
        """Return the gradients of a, b, scale and bias."""
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            raise NotImplementedError("sigmoid_loss has no second derivatives; go backward without create_graph=True")
        d_scale, d_bias, *kept = ctx.saved_tensors
        d_a = d_b = None
        if ctx.at_once:
            d_a, d_b = (_scaled(gradient, d_loss) for gradient in kept)
        elif ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            _, d_a, d_b = torch.ops.scl_kernels.sigmoid_gradients(d_loss, *kept, *ctx.rest)
        return None, d_a, d_b, None, None, d_loss * d_scale, d_loss * d_bias, None, None, None, None, None


def _scaled(gradient: Tensor, d_loss: Tensor) -> Tensor:
    """Return a kept gradient (n, D) times that of the loss (), in its place where nobody will ask for it again.

    The factor is given two dimensions, since one without would be rounded to the dtype of the gradient first.
    """
    kept = torch.compiler.is_compiling() or torch._C._autograd._get_current_graph_task_keep_graph()
    return torch.mul(gradient, d_loss.reshape(1, 1), out=torch.empty_like(gradient) if kept else gradient)


@register_flop_formula(torch.ops.scl_kernels.sigmoid_statistics)
def statistics_flops(a_shape, b_all_shape, *args, out_shape=None, **kwargs) -> int:
    """Count n x N inner products of length D, two operations each."""
    return 2 * a_shape[0] * b_all_shape[0] * a_shape[1]


@register_flop_formula(torch.ops.scl_kernels.sigmoid_gradients)
def gradients_flops(d_loss_shape, a_shape, b_shape, a_all_shape, *args, out_shape=None, **kwargs) -> int:
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

    Where gradients of a or b will be asked for, they are computed with the loss: 8 n N D operations instead of 2 n N D,
    and none in the backward pass; they take the place of the rows among what is kept for it. A forward pass whose
    graph is thrown away (activation recomputation of this call) pays for them twice. fp16 rows have theirs computed
    in the backward pass, since they would be too small for it before a scaled loss has enlarged them.

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
    at_once = torch.is_grad_enabled() and (problem.a.requires_grad or problem.b.requires_grad)
    return _LocalShare.apply(
        at_once and problem.a.dtype != torch.float16,
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
