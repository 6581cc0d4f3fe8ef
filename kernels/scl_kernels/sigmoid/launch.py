"""Launches of `sigmoid_loss`'s kernels."""

from typing import Any

import torch
from torch import Tensor

from scl_kernels.pairwise import launch as shared
from scl_kernels.pairwise.cuts import backward_cuts, forward_cuts
from scl_kernels.sigmoid.kernel import d_similarity_kernel, forward_kernel
from scl_kernels.sizes import cdiv


def row_sums(tasks: shared.Sides, temperature: Tensor, bias: Tensor) -> Tensor:
    """Launch the forward kernel on the row direction of one problem.

    Args:
        tasks: One task.
        temperature: (1,) fp32, the scale's inverse.
        bias: (1,) fp32.

    Returns:
        (3, n) fp32: each local row's sums over its pairs of softplus(-z S), of its derivative dS by S, and of dS S.
    """
    if tasks.local == 0:
        return temperature.new_zeros(3, 0)
    tiles = shared.square_tiles(tasks)
    (cut,) = forward_cuts(tasks.sizes, tiles)
    planned = shared.plan(tasks, [cut])
    partial = temperature.new_empty(3, cut.splits, tasks.local)
    shared.prepare(tasks, planned, "none")
    forward_kernel[(cdiv(tasks.local, tiles.block_m) * cut.splits, 1)](
        planned.table,
        temperature,
        bias,
        partial,
        planned.partial,
        **shared.square_constants(tasks, tiles),
    )
    return partial.sum(1)


def sums_and_gradients(
    tasks: shared.Sides, temperature: Tensor, bias: Tensor, d_loss: Tensor, weight_all: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Launch the kernels of the gradients on both directions of one problem; the row direction's sums are by-products.

    Args:
        tasks: The row direction and the column direction.
        temperature: (1,) fp32, the scale's inverse.
        bias: (1,) fp32.
        d_loss: (1,) fp32 gradient of the loss.
        weight_all: (N,) fp32 weight of each global row of the row direction.

    Returns:
        What `row_sums` returns, and the gradients of both sides' local rows.
    """
    one = torch.ones_like(weight_all)
    weight, ones = weight_all.data_ptr(), one.data_ptr()
    own = weight + 4 * tasks.offset[0]
    addresses = shared.Addresses([0, 0], [0, 0], weight_x=[own, ones], weight_y=[ones, weight], share=[0, 0])
    local, total, _ = tasks.sizes[0]
    sums = temperature.new_empty(3, local)
    (cut, _), _ = backward_cuts(tasks.sizes, tasks.dtype, tasks.even)
    across = cdiv(min(cut.span, total), shared.square_tiles(tasks).block_n)
    of_block = temperature.new_empty(3, across, cut.rows)

    def write_d_similarity(grid: tuple[int, int], *arguments: Any, **options: Any) -> None:
        d_similarity_kernel[grid](*arguments, bias, of_block, across * cut.rows, **options)

    def finish_rows(block_row: int) -> None:
        rows = sums[:, block_row * cut.rows : (block_row + 1) * cut.rows]
        torch.sum(of_block[:, :, : rows.shape[1]], 1, out=rows)

    launches = shared.BlockLaunches(write_d_similarity, finish_rows)
    return sums, shared.gradients(tasks, temperature, d_loss, addresses, "weights", launches)
