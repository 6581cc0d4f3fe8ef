"""Launches of `infonce`'s kernels."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from scl_kernels.infonce.kernel import d_similarity_kernel, forward_combine_kernel, forward_kernel
from scl_kernels.pairwise import launch as shared
from scl_kernels.pairwise.cuts import forward_cuts
from scl_kernels.pairwise.launch import Sides
from scl_kernels.sizes import cdiv


def statistics(tasks: Sides, temperature: Tensor) -> Tensor:
    """Launch the forward kernels.

    Args:
        tasks: Both directions of all problems; all tensors of one dtype.
        temperature: (problems,) fp32.

    Returns:
        (4, sum of n over the tasks) fp32: log-sum-exp, sum of positives, 1 where one of them is larger than all others,
        mean of the similarities by their softmax.
    """
    out = temperature.new_empty(4, tasks.local)
    if tasks.local == 0:
        return out
    sizes, tiles = tasks.sizes, shared.square_tiles(tasks)
    cuts = forward_cuts(sizes, tiles)
    planned = shared.plan(tasks, cuts)
    partial = temperature.new_empty(5 if tasks.duplicates == "positives" else 4, planned.partial)
    shared.prepare(tasks, planned, "none")
    programs = max(cdiv(n, tiles.block_m) * cut.splits for (n, *_), cut in zip(sizes, cuts, strict=True))
    forward_kernel[(programs, len(sizes))](
        planned.table, temperature, partial, planned.partial, **shared.square_constants(tasks, tiles)
    )
    blocks = cdiv(max(n for n, *_ in sizes), shared.COMBINE_ROWS)
    forward_combine_kernel[(blocks, len(sizes))](
        planned.table,
        partial,
        planned.partial,
        out,
        tasks.local,
        DUPLICATES=tasks.duplicates,
        BLOCK_ROWS=shared.COMBINE_ROWS,
        num_warps=1,
    )
    return out


def gradients(
    tasks: Sides,
    temperature: Tensor,
    d_loss: Tensor,
    weight_all: Sequence[Tensor],
    share_all: Sequence[Tensor] | None,
    x_lse: Sequence[Tensor],
    y_lse_all: Sequence[Tensor],
) -> list[Tensor]:
    """Launch the backward kernels.

    Args:
        tasks: Both directions of all problems; all tensors of one dtype.
        temperature: (problems,) fp32.
        d_loss: (problems,) fp32 gradient of each loss.
        weight_all: (N,) fp32 per task.
        share_all: (N + PADDING,) fp32 per task, weights over the number of positives, where those are several.
        x_lse: (n,) fp32 per task, log-sum-exps of its local rows.
        y_lse_all: (N,) fp32 per task, log-sum-exps of the global rows in the other direction.

    Returns:
        The gradient of every task's x.
    """
    weights = [weight.data_ptr() for weight in weight_all]
    addresses = shared.Addresses(
        [lse.data_ptr() for lse in x_lse],
        [lse.data_ptr() for lse in y_lse_all],
        [weight + 4 * offset for weight, offset in zip(weights, tasks.offset, strict=True)],
        weights,
        [share.data_ptr() for share in share_all] if share_all else [0] * len(weights),
    )
    return shared.gradients(tasks, temperature, d_loss, addresses, "shifts", shared.BlockLaunches(_write_d_similarity))


def _write_d_similarity(grid: tuple[int, int], *arguments: Any, **options: Any) -> None:
    d_similarity_kernel[grid](*arguments, **options)
