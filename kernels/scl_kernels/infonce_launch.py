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
MULTIPLE = 256
"""Widths that are multiples of it (all published ones) need no masks over D; a multiple of every block over D."""
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


def forward_tiles(dtype: torch.dtype, even: bool) -> Tiles:
    """Return the forward kernel's tiles, the largest found that spill nowhere; masks and fp32 want registers."""
    if dtype == torch.float32:
        return Tiles(64, 64, 32, 0, 8, 2) if even else Tiles(64, 32, 32, 0, 8, 2)
    return Tiles(128, 128, 64, 0, 8, 3) if even else Tiles(64, 64, 64, 0, 8, 2)


def backward_tiles(dtype: torch.dtype, even: bool) -> Tiles:
    """Return the backward kernel's tiles, the largest found that spill nowhere.

    128 local rows spill at every block_d tried (128, 256), as do 64 columns at block_d 256 on an H100.
    """
    if dtype == torch.bfloat16 and even:
        return Tiles(64, 32, 64, 256, 8, 2)
    return Tiles(32, 32, 32, 128, 8, 2)


RESIDENT_WIDTHS = (256, 512)
"""Widths whose rows `backward_resident_kernel` keeps on the chip; at 1024 their gradient alone fills the registers."""


def resident_tiles(dtype: torch.dtype, width: int, even: bool) -> Tiles | None:
    """Return the resident backward kernel's tiles, or None where another one has to run.

    bf16 only: fp16 gradients need fp32 operands. At D = 512, 64 columns spill 8 to 72 bytes, 128 rows spill 1 KB.
    """
    if dtype != torch.bfloat16 or not even or width not in RESIDENT_WIDTHS:
        return None
    return Tiles(64, 32 if width == 512 else 64, 0, width, 8, 3 if width == 512 else 2)


def precision(dtype: torch.dtype) -> str:
    """Return how fp32 operands are multiplied; fp16 gradients use one tf32 product, which is exact for fp16 rows."""
    return "tf32x3" if dtype == torch.float32 else "tf32"


def constants(dtype: torch.dtype, tiles: Tiles, *, even: bool) -> dict[str, Any]:
    """Return the tile kernels' compile-time arguments; `even`: see `Sides`."""
    common = {"DTYPE": TRITON_DTYPE[dtype], "EVEN": even, "PRECISION": precision(dtype), "WIDEN": interpreting()}
    common |= {"BLOCK_M": tiles.block_m, "BLOCK_N": tiles.block_n, "BLOCK_K": tiles.block_k}
    if tiles.block_d:
        common |= {"BLOCK_D": tiles.block_d, "DOT_DTYPE": tl.bfloat16 if dtype == torch.bfloat16 else tl.float32}
    return common


def resident_constants(dtype: torch.dtype, tiles: Tiles) -> dict[str, Any]:
    """Return the resident backward kernel's compile-time arguments."""
    shared = {name: constants(dtype, tiles, even=True)[name] for name in ("DTYPE", "PRECISION", "WIDEN")}
    return shared | {"WIDTH": tiles.block_d, "BLOCK_M": tiles.block_m, "BLOCK_N": tiles.block_n}


class Sides(NamedTuple):
    """All tasks of a launch, row directions first, then column directions; every tensor is contiguous."""

    x: list[Tensor]
    y: list[Tensor]
    offset: list[int]
    problem: list[int]

    @property
    def even(self) -> bool:
        """Whether tiles need no masks over D."""
        return all(t.shape[1] % MULTIPLE == 0 and t.data_ptr() % 16 == 0 for t in [*self.x, *self.y])

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
    vectors: Tensor
    """(2, rows) fp32: inverse norms and shifts, padded, task by task; held here because the table has its address."""
    work: int
    """Largest (row blocks * splits) of a task."""
    elements: int
    """Elements of one plane of partial results."""


def plan(tasks: Sides, tiles: Tiles, pointers: Sequence[Sequence[Tensor]] = ()) -> Plan:
    """Build the table for tasks; `pointers` are the backward's columns LSE_X, LSE_Y, WEIGHT and D_X.

    Args:
        tasks: What to compute.
        tiles: Sizes of the tile kernel.
        pointers: Four lists with one tensor per task, or nothing in the forward pass.
    """
    pad = kernels.PADDING.value
    sizes = [(x.shape[0], y.shape[0], x.shape[1]) for x, y in zip(tasks.x, tasks.y, strict=True)]
    total = sum(triton.cdiv(n, pad) * pad + triton.cdiv(everything, pad) * pad for n, everything, _ in sizes)
    vectors = tasks.x[0].new_empty(2, total, dtype=torch.float32)
    table, base, partial, work = [], 0, 0, 1
    x_at = vectors.data_ptr()
    for k, ((n, everything, width), (span, parts)) in enumerate(zip(sizes, splits(sizes, tiles), strict=True)):
        y_at = x_at + 4 * triton.cdiv(n, pad) * pad
        row = [tasks.x[k].data_ptr(), tasks.y[k].data_ptr(), x_at, y_at, x_at + 4 * total, y_at + 4 * total]
        row += [n, everything, width, tasks.offset[k], tasks.problem[k], span, parts, base, partial]
        table.append(row + ([column[k].data_ptr() for column in pointers] or [0] * 4))
        base, x_at = base + n, y_at + 4 * triton.cdiv(everything, pad) * pad
        partial += parts * n * (width if tiles.block_d else 1)
        work = max(work, triton.cdiv(n, tiles.block_m) * parts)
    on_device = torch.tensor(table, dtype=torch.int64).to(vectors.device, non_blocking=True)
    return Plan(on_device, vectors, work, max(1, partial))


def _prepare(tasks: Sides, planned: Plan, *, shifts: bool) -> None:
    pad = kernels.PADDING.value
    rows = triton.cdiv(max(t.shape[0] for t in [*tasks.x, *tasks.y]), pad) * pad
    kernels.prepare_kernel[(triton.cdiv(rows, BLOCK_ROWS), 2 * len(tasks.x))](
        planned.table,
        TRITON_DTYPE[tasks.x[0].dtype],
        MINIMUM_NORM,
        SHIFTS=shifts,
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
    tiles = forward_tiles(dtype, tasks.even)
    planned = plan(tasks, tiles)
    partial = temperature.new_empty(4, planned.elements)
    _prepare(tasks, planned, shifts=False)
    kernels.forward_kernel[(planned.work, len(tasks.x))](
        planned.table,
        temperature,
        partial,
        planned.elements,
        **constants(dtype, tiles, even=tasks.even),
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
        tasks: Both directions of all problems; where all have one width, the resident kernel may serve them.
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
    dtype, widest = tasks.x[0].dtype, max(x.shape[1] for x in tasks.x)
    resident = resident_tiles(dtype, widest, tasks.even) if len({x.shape[1] for x in tasks.x}) == 1 else None
    tiles = resident or backward_tiles(dtype, tasks.even)
    planned = plan(tasks, tiles, (x_lse, y_lse_all, weight_all, d_x))
    partial = temperature.new_empty(planned.elements)
    _prepare(tasks, planned, shifts=True)
    arguments, warps = (planned.table, temperature, partial), {"num_warps": tiles.num_warps}
    if resident:
        kernels.backward_resident_kernel[(planned.work, len(tasks.x))](
            *arguments, **resident_constants(dtype, resident), **warps, num_stages=tiles.num_stages
        )
    else:
        kernels.backward_kernel[(planned.work, len(tasks.x), triton.cdiv(widest, tiles.block_d))](
            *arguments, **constants(dtype, tiles, even=tasks.even), **warps, num_stages=tiles.num_stages
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
