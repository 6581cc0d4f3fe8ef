"""Masked-token gather: rows, embeddings and the following LayerNorm, straight into the packed buffer.

In this order: the launches as operators, autograd, the public function. The backward leaves its sums over tokens to one
`segment_sum`: the gradients of all tables are one, mask token, [CLS], rows, positions, extra rows from top to bottom.
"""
# mypy: disable-error-code="no-untyped-def"

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from scl_kernels.backend import Backend, resolve
from scl_kernels.masked_gather.inputs import CLASS_ROW, MASK_ROW, SCHEMA, Inputs, check_inputs
from scl_kernels.masked_gather.kernel import backward_kernel, forward_kernel
from scl_kernels.masked_gather.reference import masked_gather_reference
from scl_kernels.segment_sum import joint_destination, segment_sum, sum_by_index
from scl_kernels.sizes import cdiv, power_of_two

FORWARD_ROWS = 4
"""Rows of a tile in the forward pass."""
BACKWARD_ROWS = 2
"""Rows of a tile in the backward pass, which holds more values per row."""
BACKWARD_PROGRAMS = 1024
"""Most programs of the backward pass, and so most partial sums of LayerNorm's gradients."""

SMALL = 4096
"""Most tokens whose gradients PyTorch's own sum adds, since a segment sum costs thirty launches whatever its size."""

FORWARD = "scl_kernels::masked_gather"
BACKWARD = "scl_kernels::masked_gather_backward"
torch.library.define(FORWARD, f"({SCHEMA}) -> (Tensor, Tensor, Tensor)")
torch.library.define(BACKWARD, f"(Tensor d_out, {SCHEMA}, Tensor mean, Tensor inverse_std) -> (Tensor, Tensor, Tensor)")


def _pointers(inputs: Inputs, *left_out: str) -> list[Tensor]:
    """Return what kernels take of the inputs; anything may stand for a row that does not exist."""
    tensors = [value for name, value in inputs._asdict().items() if name not in ("eps", *left_out)]
    return [inputs.weight if tensor is None else tensor.contiguous() for tensor in tensors]


def _rows(inputs: Inputs) -> tuple[int, int, int]:
    """Return the number of rows of the three tables."""
    return inputs.rows.shape[0], inputs.position.shape[0], inputs.extra.shape[0]


# `define`, `impl` and a Function instead of `custom_op`, whose wrappers take longer than a small launch.
@torch.library.impl(FORWARD, "CompositeExplicitAutograd")
def _forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Launch the forward kernel: the output (N, D), mean (N,) and 1 / standard deviation (N,) in fp32."""
    inputs = Inputs(*arguments)
    count, width = inputs.source.shape[0], inputs.rows.shape[1]
    out = inputs.rows.new_empty(count, width)
    mean, inverse_std = (inputs.rows.new_empty(count, dtype=torch.float32) for _ in range(2))
    if count:
        forward_kernel[(cdiv(count, FORWARD_ROWS),)](
            *_pointers(inputs),
            out,
            mean,
            inverse_std,
            count,
            *_rows(inputs),
            inputs.eps,
            width,
            HAS_CLASS=inputs.class_row is not None,
            HAS_MASK=inputs.mask_row is not None,
            ROWS=FORWARD_ROWS,
            BLOCK_D=power_of_two(width),
            num_warps=4,
        )
    return out, mean, inverse_std


@torch.library.register_fake(FORWARD)
def _(*arguments):
    rows, count = arguments[0], Inputs(*arguments).source.shape[0]
    statistics = (rows.new_empty(count, dtype=torch.float32) for _ in range(2))
    return rows.new_empty(count, rows.shape[1]), *statistics


@torch.library.impl(BACKWARD, "CompositeExplicitAutograd")
def _backward(d_out: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Launch the backward kernel and the segment sum.

    Args:
        d_out: (N, D) gradient of the output.
        arguments: `Inputs`, then mean and 1 / standard deviation of the forward pass.

    Returns:
        Gradients of mask token, [CLS], rows, positions and extra rows in one (2 + R + P + E, D), of weight and of bias.
    """
    inputs, (mean, inverse_std) = Inputs(*arguments[:-2]), arguments[-2:]
    count, width = d_out.shape
    programs = min(BACKWARD_PROGRAMS, cdiv(count, BACKWARD_ROWS))
    d_x = inputs.rows.new_empty(count, width)
    d_weight, d_bias = (d_x.new_empty(programs, width, dtype=torch.float32) for _ in range(2))
    if count:
        backward_kernel[(programs,)](
            d_out.contiguous(),
            *_pointers(inputs, "bias"),
            mean,
            inverse_std,
            d_x,
            d_weight,
            d_bias,
            count,
            *_rows(inputs),
            width,
            HAS_CLASS=inputs.class_row is not None,
            HAS_MASK=inputs.mask_row is not None,
            ROWS=BACKWARD_ROWS,
            BLOCK_D=power_of_two(width),
            num_warps=4,
        )
    row_count, position_count, extra_count = _rows(inputs)
    sizes = (row_count - MASK_ROW, position_count, extra_count)
    destination = joint_destination((inputs.source - MASK_ROW, inputs.position_id, inputs.extra_id), sizes)
    if count <= SMALL:
        joint = sum_by_index(d_x.repeat(3, 1), destination, sum(sizes))
    else:
        joint = segment_sum(d_x, destination, sum(sizes))
    return joint, d_weight.sum(0), d_bias.sum(0)


@torch.library.register_fake(BACKWARD)
def _(d_out, *arguments):
    inputs = Inputs(*arguments[:-2])
    joint = inputs.rows.new_empty(sum(_rows(inputs)) - MASK_ROW, inputs.rows.shape[1])
    return joint, *(joint.new_empty(joint.shape[1], dtype=torch.float32) for _ in range(2))


@register_flop_formula([torch.ops.scl_kernels.masked_gather, torch.ops.scl_kernels.masked_gather_backward])
def no_flops(*args, out_shape=None, **kwargs) -> int:
    """Count nothing: as in PyTorch's counter, only matrix products count."""
    return 0


class _MaskedGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        """Gather; `inputs` as of the operator."""
        out, mean, inverse_std = torch.ops.scl_kernels.masked_gather(*inputs)
        *tensors, ctx.eps = inputs
        ctx.save_for_backward(*tensors, mean, inverse_std)
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple:
        """Take the joint table of gradients apart."""
        *tensors, mean, inverse_std = ctx.saved_tensors  # a checkpoint gives them out once
        inputs = Inputs(*[*tensors, ctx.eps])
        joint, d_weight, d_bias = torch.ops.scl_kernels.masked_gather_backward(d_out, *inputs, mean, inverse_std)
        _, position_count, extra_count = _rows(inputs)
        first, second = joint.shape[0] - position_count - extra_count, joint.shape[0] - extra_count
        return (
            joint[-MASK_ROW:first],
            joint[first:second].to(inputs.position.dtype),
            joint[second:].to(inputs.extra.dtype),
            None if inputs.class_row is None else joint[CLASS_ROW - MASK_ROW].to(inputs.class_row.dtype),
            None if inputs.mask_row is None else joint[0].to(inputs.mask_row.dtype),
            d_weight.to(inputs.weight.dtype),
            d_bias.to(inputs.bias.dtype),
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
    """Gather rows into a packed buffer, add their embeddings and normalize them.

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
    inputs = Inputs(
        rows, position, extra, class_row, mask_row, weight, bias, source, position_id, extra_id, eps
    )  # fmt: skip
    check_inputs(inputs)
    if resolve(backend, rows, "masked_gather", source.shape[0] * rows.shape[1]) == "triton":
        return _MaskedGather.apply(*inputs)
    return masked_gather_reference(inputs)
