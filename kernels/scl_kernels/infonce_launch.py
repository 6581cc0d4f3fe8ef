"""Host side of `infonce`'s kernels: tile sizes, the task table, allocations and launches."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from scl_kernels import infonce_kernels as kernels
from scl_kernels.backend import interpreting
from scl_kernels.infonce_reference import MINIMUM_NORM

TRITON_DTYPE = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
WANTED_PROGRAMS = 264
"""Programs that fill a device (two per multiprocessor of an H100). A constant, so that results do not depend on it."""
MAXIMUM_SPLITS = 32
PARTIAL_BYTES = 16 * 2**20
"""Bound on the memory of partial gradients as far as more than one split is concerned."""
BLOCK_ROWS = 16
"""Local rows of a program in the kernels that only stream."""
BLOCK_STREAM = 128
"""Columns that they read at once."""


class Tiles(NamedTuple):
    """Sizes of the tile kernels for one dtype."""

    block_m: int
    block_n: int
    block_k: int
    block_d: int
    num_warps: int
    num_stages: int


def forward_tiles(dtype: torch.dtype) -> Tiles:
    """Return the forward kernel's tiles; fp32 runs three tf32 products per tile, which wants registers."""
    if dtype == torch.float32:
        return Tiles(64, 64, 32, 0, 4, 2)
    return Tiles(128, 128, 64, 0, 8, 3)


def backward_tiles(dtype: torch.dtype) -> Tiles:
    """Return the backward kernel's tiles."""
    if dtype == torch.bfloat16:
        return Tiles(128, 64, 64, 256, 8, 2)
    return Tiles(64, 32, 32, 128, 8, 2)


def precision(dtype: torch.dtype) -> str:
    """Return how fp32 operands are multiplied; fp16 gradients use one tf32 product, which is exact for fp16 rows."""
    return "tf32x3" if dtype == torch.float32 else "tf32"


def constants(dtype: torch.dtype, tiles: Tiles, *, aligned: bool) -> dict[str, Any]:
    """Return the tile kernels' compile-time arguments; `aligned`: every D and address is a multiple of 16."""
    common = {"DTYPE": TRITON_DTYPE[dtype], "ALIGNED": aligned, "PRECISION": precision(dtype), "WIDEN": interpreting()}
    common |= {"BLOCK_M": tiles.block_m, "BLOCK_N": tiles.block_n, "BLOCK_K": tiles.block_k}
    if tiles.block_d:
        common |= {"BLOCK_D": tiles.block_d, "DOT_DTYPE": tl.bfloat16 if dtype == torch.bfloat16 else tl.float32}
    return common


class Sides(NamedTuple):
    """All tasks of a launch, row directions first, then column directions; every tensor is contiguous."""

    x: list[Tensor]
    y: list[Tensor]
    offset: list[int]
    problem: list[int]

    @property
    def local(self) -> int:
        """Sum of n over the tasks."""
        return sum(x.shape[0] for x in self.x)


def sides(a: list[Tensor], b: list[Tensor], a_all: list[Tensor], b_all: list[Tensor], offset: list[int]) -> Sides:
    """Arrange problems as tasks."""
    x, y = [[tensor.contiguous() for tensor in tensors] for tensors in ([*a, *b], [*b_all, *a_all])]
    return Sides(x, y, offset * 2, [*range(len(a))] * 2)


def splits(sizes: Sequence[tuple[int, int, int]], tiles: Tiles) -> list[tuple[int, int]]:
    """Return (rows of a split, number of splits) per task: enough programs to fill a device, bounded memory.

    Args:
        sizes: (n, N, D) per task.
        tiles: Sizes of the tile kernel.
    """
    programs = sum(
        triton.cdiv(n, tiles.block_m) * (triton.cdiv(width, tiles.block_d) if tiles.block_d else 1)
        for n, _, width in sizes
    )
    wanted = min(MAXIMUM_SPLITS, triton.cdiv(WANTED_PROGRAMS, max(1, programs)))
    if tiles.block_d:
        wanted = min(wanted, max(1, PARTIAL_BYTES // max(1, sum(4 * n * width for n, _, width in sizes))))
    out = []
    for _, total, _ in sizes:
        span = triton.cdiv(triton.cdiv(max(1, total), tiles.block_n), wanted) * tiles.block_n
        out.append((span, triton.cdiv(max(1, total), span)))
    return out


class Plan(NamedTuple):
    """The task table and what follows from it."""

    table: Tensor
    """(tasks, FIELDS) int64."""
    inverse: Tensor
    """fp32 inverse norms of all local, then all global rows; held here because the table has its address."""
    aligned: bool
    work: int
    """Largest (row blocks * splits) of a task."""
    elements: int
    """Elements of one plane of partial results."""


def plan(tasks: Sides, tiles: Tiles, pointers: Sequence[Sequence[Tensor]] = ()) -> Plan:
    """Build the table for tasks; `pointers` are the backward's columns D_X, WEIGHT, LSE_X and LSE_Y.

    Args:
        tasks: What to compute.
        tiles: Sizes of the tile kernel.
        pointers: Four lists with one tensor per task, or nothing in the forward pass.
    """
    total = sum(y.shape[0] for y in tasks.y)
    inverse = tasks.x[0].new_empty(tasks.local + total, dtype=torch.float32)
    table, base, y_base, partial, work = [], 0, tasks.local, 0, 1
    sizes = [(x.shape[0], y.shape[0], x.shape[1]) for x, y in zip(tasks.x, tasks.y, strict=True)]
    for k, (x, y, (span, parts)) in enumerate(zip(tasks.x, tasks.y, splits(sizes, tiles), strict=True)):
        n, width = x.shape
        start = inverse.data_ptr()
        row = [x.data_ptr(), y.data_ptr(), start + 4 * base, start + 4 * y_base, n, y.shape[0], width]
        row += [tasks.offset[k], tasks.problem[k], span, parts, base, partial]
        table.append(row + ([column[k].data_ptr() for column in pointers] or [0] * 4))
        base, y_base = base + n, y_base + y.shape[0]
        partial += parts * n * (width if tiles.block_d else 1)
        work = max(work, triton.cdiv(n, tiles.block_m) * parts)
    aligned = all(t.shape[1] % 16 == 0 and t.data_ptr() % 16 == 0 for t in [*tasks.x, *tasks.y])
    on_device = torch.tensor(table, dtype=torch.int64).to(inverse.device, non_blocking=True)
    return Plan(on_device, inverse, aligned, work, max(1, partial))


def _inverse_norms(tasks: Sides, planned: Plan) -> None:
    rows = max(t.shape[0] for t in [*tasks.x, *tasks.y])
    kernels.inverse_norms_kernel[(triton.cdiv(rows, BLOCK_ROWS), 2 * len(tasks.x))](
        planned.table,
        TRITON_DTYPE[tasks.x[0].dtype],
        MINIMUM_NORM,
        BLOCK_ROWS=BLOCK_ROWS,
        BLOCK_K=BLOCK_STREAM,
        num_warps=4,
    )


def statistics(tasks: Sides, temperature: Tensor) -> Tensor:
    """Launch the forward kernels.

    Args:
        tasks: Both directions of all problems; all tensors of one dtype.
        temperature: (problems,) fp32.

    Returns:
        (3, sum of n over the tasks) fp32: log-sum-exp, diagonal, 1 where the diagonal is the largest.
    """
    out = temperature.new_empty(3, tasks.local)
    if tasks.local == 0:
        return out
    dtype = tasks.x[0].dtype
    tiles = forward_tiles(dtype)
    planned = plan(tasks, tiles)
    partial = temperature.new_empty(4, planned.elements)
    _inverse_norms(tasks, planned)
    kernels.forward_kernel[(planned.work, len(tasks.x))](
        planned.table,
        temperature,
        partial,
        planned.elements,
        **constants(dtype, tiles, aligned=planned.aligned),
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
    )
    blocks = triton.cdiv(max(x.shape[0] for x in tasks.x), BLOCK_ROWS)
    kernels.forward_combine_kernel[(blocks, len(tasks.x))](
        planned.table, partial, planned.elements, out, tasks.local, BLOCK_ROWS=BLOCK_ROWS, num_warps=1
    )
    return out


def gradients(
    tasks: Sides,
    temperature: Tensor,
    d_loss: Tensor,
    weight_all: Sequence[Tensor],
    x_lse: Sequence[Tensor],
    y_lse_all: Sequence[Tensor],
) -> tuple[list[Tensor], Tensor]:
    """Launch the backward kernels.

    Args:
        tasks: Both directions of all problems.
        temperature: (problems,) fp32.
        d_loss: (problems,) fp32 gradient of each loss.
        weight_all: (N,) fp32 per task.
        x_lse: (n,) fp32 per task, log-sum-exps of its local rows.
        y_lse_all: (N,) fp32 per task, log-sum-exps of the global rows in the other direction.

    Returns:
        The gradient of every task's x, and (sum of n over the tasks,) fp32, each local row's share of its
        temperature's gradient.
    """
    d_x = [torch.empty_like(x) for x in tasks.x]
    d_temperature = temperature.new_empty(tasks.local)
    if tasks.local == 0:
        return d_x, d_temperature
    dtype = tasks.x[0].dtype
    tiles = backward_tiles(dtype)
    planned = plan(tasks, tiles, (d_x, weight_all, x_lse, y_lse_all))
    partial = temperature.new_empty(planned.elements)
    _inverse_norms(tasks, planned)
    slices = triton.cdiv(max(x.shape[1] for x in tasks.x), tiles.block_d)
    kernels.backward_kernel[(planned.work, len(tasks.x), slices)](
        planned.table,
        temperature,
        partial,
        **constants(dtype, tiles, aligned=planned.aligned),
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
    )
    blocks = triton.cdiv(max(x.shape[0] for x in tasks.x), BLOCK_ROWS)
    kernels.backward_combine_kernel[(blocks, len(tasks.x))](
        planned.table,
        temperature,
        d_loss,
        partial,
        d_temperature,
        DTYPE=TRITON_DTYPE[dtype],
        MINIMUM=MINIMUM_NORM,
        BLOCK_ROWS=BLOCK_ROWS,
        BLOCK_K=BLOCK_STREAM,
        num_warps=4,
    )
    return d_x, d_temperature
