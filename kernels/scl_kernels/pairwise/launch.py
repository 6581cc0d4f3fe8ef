"""Host side of the pairwise losses: the task table, allocations and the launches that they share."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scl_kernels.pairwise import kernel as kernels
from scl_kernels.pairwise.cuts import Cut, backward_cuts
from scl_kernels.pairwise.duplicates import Treatment
from scl_kernels.pairwise.reference import MINIMUM_NORM
from scl_kernels.pairwise.tiles import (
    MULTIPLE,
    TRITON_DTYPE,
    Tiles,
    architecture,
    gradient_constants,
    similarity_constants,
    similarity_tiles,
    workspace_dtype,
)
from scl_kernels.sizes import cdiv

PREPARE_ROWS = 16
"""Rows of a program of `prepare_kernel`."""
COMBINE_ROWS = 4
"""Local rows of a program of the combining kernels; with more, the backward one fills the registers."""
BLOCK_STREAM = 128
"""Columns that they read at once."""


class Sides(NamedTuple):
    """All tasks of a launch, row directions first, then column directions; every tensor is contiguous."""

    x: list[Tensor]
    y: list[Tensor]
    offset: list[int]
    problem: list[int]
    sizes: list[tuple[int, int, int]]
    """(n, N, D) per task."""
    even: bool
    """Whether tiles need no masks over D."""
    numbers: list[Tensor] | None = None
    """Of `Duplicates`, per task; None where duplicates are negatives."""
    duplicates: Treatment = "negatives"

    @property
    def local(self) -> int:
        """Sum of n over the tasks."""
        return sum(n for n, *_ in self.sizes)

    @property
    def dtype(self) -> torch.dtype:
        """Of all rows."""
        return self.x[0].dtype


def row_sides(
    a: list[Tensor],
    b_all: list[Tensor],
    offset: list[int],
    numbers: list[Tensor] | None = None,
    duplicates: Treatment = "negatives",
) -> Sides:
    """Arrange the row directions of problems as tasks."""
    x, y = ([tensor.contiguous() for tensor in tensors] for tensors in (a, b_all))
    sizes = [(own.shape[0], everything.shape[0], own.shape[1]) for own, everything in zip(x, y, strict=True)]
    even = all(t.shape[1] % MULTIPLE == 0 and t.data_ptr() % 16 == 0 for t in [*x, *y])
    return Sides(x, y, offset, [*range(len(a))], sizes, even, numbers, duplicates)


def sides(
    a: list[Tensor],
    b: list[Tensor],
    a_all: list[Tensor],
    b_all: list[Tensor],
    offset: list[int],
    numbers: list[Tensor] | None = None,
    duplicates: Treatment = "negatives",
) -> Sides:
    """Arrange both directions of problems as tasks."""
    both = None if numbers is None else numbers * 2
    tasks = row_sides([*a, *b], [*b_all, *a_all], offset * 2, both, duplicates)
    return tasks._replace(problem=[*range(len(a))] * 2)


def square_tiles(tasks: Sides) -> Tiles:
    """Return the tiles of S in both passes on the tasks' device."""
    return similarity_tiles(tasks.dtype, tasks.even, architecture(tasks.x[0].device), tasks.duplicates)


def square_constants(tasks: Sides, tiles: Tiles) -> dict[str, Any]:
    """Return the compile-time arguments of a loss's own kernels on tiles of S, options of the launch among them."""
    return similarity_constants(tasks.dtype, tiles, even=tasks.even, duplicates=tasks.duplicates) | tiles.options


class Addresses(NamedTuple):
    """Where the vectors of the backward pass lie, one address per task; 0 for what a loss does not have."""

    lse_x: Sequence[int]
    """(n,) fp32 log-sum-exps of the local rows."""
    lse_y: Sequence[int]
    """(N,) fp32 those of the global rows in the other direction."""
    weight_x: Sequence[int]
    """(n,) fp32 weights of the local rows."""
    weight_y: Sequence[int]
    """(N,) fp32 weights of the global rows."""
    share: Sequence[int]
    """(N + PADDING,) fp32 weight of each global row over the number of its positives, where those are several."""


class Plan(NamedTuple):
    """The task table and what follows from it."""

    table: Tensor
    """(tasks, FIELDS) int64."""
    vectors: Tensor
    """(2, rows) fp32: inverse norms and VECTORS, padded, task by task; held here because the table has its address."""
    partial: int
    """Elements of one plane of partial results."""
    workspace: int
    """Elements of the workspace; 0 in the forward pass."""


def plan(
    tasks: Sides, cuts: Sequence[Cut], addresses: Addresses | None = None, d_x: Sequence[Tensor] | None = None
) -> Plan:
    """Build the table for tasks.

    Args:
        tasks: What to compute.
        cuts: Of the tasks.
        addresses: What the backward pass reads, or None.
        d_x: The gradients that it writes, or None.
    """
    pad = kernels.PADDING.value
    total = sum(cdiv(n, pad) * pad + cdiv(everything, pad) * pad for n, everything, _ in tasks.sizes)
    vectors = tasks.x[0].new_empty(2, total, dtype=torch.float32)
    table, base, partial, workspace = [], 0, 0, 0
    x_at = vectors.data_ptr()
    for k, ((n, everything, width), cut) in enumerate(zip(tasks.sizes, cuts, strict=True)):
        y_at = x_at + 4 * cdiv(n, pad) * pad
        row = [tasks.x[k].data_ptr(), tasks.y[k].data_ptr(), x_at, y_at, x_at + 4 * total, y_at + 4 * total]
        row += [n, everything, width, tasks.offset[k], tasks.problem[k], cut.span, cut.splits, base, partial]
        row += [column[k] for column in addresses] if addresses else [0] * len(Addresses._fields)
        numbers = [number.data_ptr() for number in tasks.numbers[k]] if tasks.numbers else [0, 0]
        table.append([*row, d_x[k].data_ptr() if d_x else 0, cut.rows, workspace, *numbers])
        base, x_at = base + n, y_at + 4 * cdiv(everything, pad) * pad
        partial += cut.splits * (cut.rows * width if cut.rows else n)
        workspace += cut.rows * cut.span
    on_device = torch.tensor(table, dtype=torch.int64).to(vectors.device, non_blocking=True)
    return Plan(on_device, vectors, max(1, partial), workspace)


def prepare(tasks: Sides, planned: Plan, vectors: str) -> None:
    """Launch `prepare_kernel`; `vectors` as there."""
    pad = kernels.PADDING.value
    rows = cdiv(max(max(n, total) for n, total, _ in tasks.sizes), pad) * pad
    kernels.prepare_kernel[(cdiv(rows, PREPARE_ROWS), 2 * len(tasks.x))](
        planned.table,
        TRITON_DTYPE[tasks.dtype],
        MINIMUM_NORM,
        VECTORS=vectors,
        BLOCK_ROWS=PREPARE_ROWS,
        BLOCK_K=BLOCK_STREAM,
        num_warps=4,
    )


class BlockLaunches(NamedTuple):
    """What a loss launches itself on every block of dS."""

    write_d_similarity: Callable[..., None]
    """Takes a grid, the table, the temperatures, the workspace, the block's row and column and options: launches the
    loss's own kernel that writes dS_ij / |y_j| of a block."""
    finish_rows: Callable[[int], None] = lambda block_row: None
    """Takes a row of blocks whose last one is written."""


def gradients(
    tasks: Sides,
    temperature: Tensor,
    d_loss: Tensor,
    addresses: Addresses,
    vectors: str,
    launches: BlockLaunches,
) -> list[Tensor]:
    """Launch the kernels of the gradients.

    Args:
        tasks: Both directions of all problems; all tensors of one dtype.
        temperature: (problems,) fp32.
        d_loss: (problems,) fp32 gradient of each loss.
        addresses: What the backward pass reads.
        vectors: What `prepare_kernel` makes of it.
        launches: Of the loss.

    Returns:
        The gradient of every task's x.
    """
    d_x = [torch.empty_like(x) for x in tasks.x]
    if tasks.local == 0:
        return d_x
    dtype, sizes = tasks.dtype, tasks.sizes
    cuts, tiles = backward_cuts(sizes, dtype, tasks.even)
    planned = plan(tasks, cuts, addresses, d_x)
    partial = temperature.new_empty(planned.partial)
    prepare(tasks, planned, vectors)
    multiply = _block_products(tasks, planned, cuts, tiles, temperature, partial, launches.write_d_similarity)
    groups = cdiv(max(min(n, cut.rows) for cut, (n, *_) in zip(cuts, sizes, strict=True)), COMBINE_ROWS)
    down, across = (max(counts) for counts in zip(*map(Cut.blocks, cuts, sizes), strict=True))
    for block_row in range(down):
        for block_column in range(across):
            multiply(block_row, block_column)
        launches.finish_rows(block_row)
        kernels.backward_combine_kernel[(groups, len(sizes))](
            planned.table,
            temperature,
            d_loss,
            partial,
            block_row,
            DTYPE=TRITON_DTYPE[dtype],
            MINIMUM=MINIMUM_NORM,
            BLOCK_ROWS=COMBINE_ROWS,
            BLOCK_K=BLOCK_STREAM,
            num_warps=4,
        )
    return d_x


def _block_products(
    tasks: Sides,
    planned: Plan,
    cuts: Sequence[Cut],
    tiles: Tiles,
    temperature: Tensor,
    partial: Tensor,
    write_d_similarity: Callable[..., None],
) -> Callable[[int, int], None]:
    """Return what forms a block of dS, the same one of all tasks, and adds its product with y to `partial`."""
    dtype, sizes = tasks.dtype, tasks.sizes
    workspace = temperature.new_empty(planned.workspace, dtype=workspace_dtype(dtype))
    square = square_tiles(tasks)
    square_programs = max(cdiv(cut.rows, square.block_m) * cdiv(cut.span, square.block_n) for cut in cuts)
    programs = max(cdiv(cut.rows, tiles.block_m) * cut.splits for cut in cuts)
    slices = cdiv(max(width for *_, width in sizes), tiles.block_n)
    options = square_constants(tasks, square)
    constants = gradient_constants(dtype, tiles, even=tasks.even)

    def multiply(*block: int) -> None:
        write_d_similarity((square_programs, len(sizes)), planned.table, temperature, workspace, *block, **options)
        kernels.gradient_kernel[(programs, len(sizes), slices)](
            planned.table, workspace, partial, *block, **constants, **tiles.options
        )

    return multiply
