"""Host side of `infonce`'s kernels: tile sizes, the task table, allocations and launches."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from scl_kernels import infonce_kernels as kernels
from scl_kernels.backend import interpreting
from scl_kernels.infonce_reference import MINIMUM_NORM
from scl_kernels.sizes import cdiv

TRITON_DTYPE = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
MULTIPLE = 256
"""Widths that are multiples of it (all published ones) need no masks over D; a multiple of every tile's side."""
FORWARD_PROGRAMS = 264
"""Programs that fill a device, two per multiprocessor of an H100. A constant, so that results do not depend on it."""
GRADIENT_PROGRAMS = 128
"""The same for `gradient_kernel`, of which a multiprocessor holds one."""
MAXIMUM_SPLITS = 32
SPLIT_COLUMNS = 256
"""Fewest global rows that are worth a split of a block."""
PARTIAL_BYTES = 8 * 2**20
"""Bound on the memory of partial gradients as far as more than one split is concerned."""
WORKSPACE_BYTES = (8 * 2**20, 32 * 2**20)
"""Bounds on dS's workspace, three times the gradients in between; a larger one would not stay in an H100's L2 cache."""
BLOCK_LOCAL_ROWS = 8192
"""Local rows of all tasks' blocks together: tiles enough for a device, and their gradients fit into its cache."""
PREPARE_ROWS = 16
"""Rows of a program of `prepare_kernel`."""
COMBINE_ROWS = 4
"""Local rows of a program of the combining kernels; with more, the backward one fills the registers."""
BLOCK_STREAM = 128
"""Columns that they read at once."""


class Tiles(NamedTuple):
    """Sizes of a matrix product's tiles: (block_m, block_n) of the result, block_k along the sum."""

    block_m: int
    block_n: int
    block_k: int
    num_stages: int
    max_registers: int | None = None
    """128 makes room for two programs of 8 warps on a multiprocessor, one of which computes while the other waits."""

    @property
    def options(self) -> dict[str, int]:
        """What a launch and the compiler take."""
        bound = {} if self.max_registers is None else {"maxnreg": self.max_registers}
        return {"num_warps": 8, "num_stages": self.num_stages, **bound}


def similarity_tiles(dtype: torch.dtype, even: bool, architecture: int) -> Tiles:
    """Return the tiles of S in both passes, the largest found that spill nowhere; masks and fp32 want registers.

    Args:
        dtype: Of the rows.
        even: See `Sides`.
        architecture: 80 for an A100, 90 for an H100; the former would spill with 128 registers.
    """
    if dtype == torch.float32:
        return Tiles(64, 64, 32, 2) if even else Tiles(64, 32, 32, 2)
    if not even:
        return Tiles(64, 64, 64, 2)
    return Tiles(128, 128, 64, 3, 128 if architecture >= 90 else None)


def gradient_tiles(dtype: torch.dtype, even: bool, *, wide: bool) -> Tiles:
    """Return the tiles of dS y; `wide` ones read less per product, but are too few where there are few local rows."""
    if dtype == torch.bfloat16 and even:
        return Tiles(128, 256 if wide else 128, 64, 3)
    return Tiles(64, 64, 32, 3)


def architecture(device: torch.device) -> int:
    """Return 10 times the major compute capability and the minor one; an A100's 80 without a GPU."""
    if device.type != "cuda":
        return 80
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def precision(dtype: torch.dtype) -> str:
    """Return how fp32 operands are multiplied; fp16 gradients use one tf32 product, which is exact for fp16 rows."""
    return "tf32x3" if dtype == torch.float32 else "tf32"


def workspace_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the precision of dS as an operand: that of bf16 rows, else fp32, since fp16 cannot hold 1 / N."""
    return torch.bfloat16 if dtype == torch.bfloat16 else torch.float32


def common_constants(dtype: torch.dtype, *, even: bool) -> dict[str, Any]:
    """Return the compile-time arguments of every tile kernel; `even`: see `Sides`."""
    return {"DTYPE": TRITON_DTYPE[dtype], "EVEN": even, "PRECISION": precision(dtype), "WIDEN": interpreting()}


def similarity_constants(dtype: torch.dtype, tiles: Tiles, *, even: bool) -> dict[str, Any]:
    """Return the compile-time arguments of the forward kernel and of the one that writes dS."""
    sizes = {"BLOCK_M": tiles.block_m, "BLOCK_N": tiles.block_n, "BLOCK_K": tiles.block_k}
    return common_constants(dtype, even=even) | sizes


def gradient_constants(dtype: torch.dtype, tiles: Tiles, *, even: bool) -> dict[str, Any]:
    """Return the compile-time arguments of the kernel that multiplies dS with y."""
    sizes = {"BLOCK_M": tiles.block_m, "BLOCK_K": tiles.block_k, "BLOCK_D": tiles.block_n}
    return common_constants(dtype, even=even) | sizes


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

    @property
    def local(self) -> int:
        """Sum of n over the tasks."""
        return sum(n for n, *_ in self.sizes)


def sides(a: list[Tensor], b: list[Tensor], a_all: list[Tensor], b_all: list[Tensor], offset: list[int]) -> Sides:
    """Arrange problems as tasks."""
    x, y = [[tensor.contiguous() for tensor in tensors] for tensors in ([*a, *b], [*b_all, *a_all])]
    sizes = [(own.shape[0], everything.shape[0], own.shape[1]) for own, everything in zip(x, y, strict=True)]
    even = all(t.shape[1] % MULTIPLE == 0 and t.data_ptr() % 16 == 0 for t in [*x, *y])
    return Sides(x, y, offset * 2, [*range(len(a))] * 2, sizes, even)


class Cut(NamedTuple):
    """How a task's (n, N) similarities are cut up."""

    span: int
    """Global rows of a split in the forward pass, of a block in the backward pass."""
    splits: int
    """How many programs share the local rows of a tile; in the backward pass within every block."""
    rows: int = 0
    """Local rows of a block; 0 in the forward pass, which has no blocks."""

    def blocks(self, n: int, total: int) -> int:
        """Return how many blocks cover (n, total) similarities."""
        return cdiv(n, self.rows) * cdiv(total, self.span)


Sizes = Sequence[tuple[int, int, int]]
"""(n, N, D) per task."""


def forward_cuts(sizes: Sizes, tiles: Tiles) -> list[Cut]:
    """Cut for the forward pass: enough programs to fill a device."""
    programs = sum(cdiv(n, tiles.block_m) for n, _, _ in sizes)
    wanted = min(MAXIMUM_SPLITS, cdiv(FORWARD_PROGRAMS, max(1, programs)))
    cuts = []
    for _, total, _ in sizes:
        span = cdiv(cdiv(max(1, total), tiles.block_n), wanted) * tiles.block_n
        cuts.append(Cut(span, cdiv(max(1, total), span)))
    return cuts


def backward_cuts(sizes: Sizes, dtype: torch.dtype, even: bool) -> tuple[list[Cut], Tiles]:
    """Cut for the backward pass: blocks of all tasks fit into the workspace together, and their tiles fill a device.

    Args:
        sizes: Of the tasks.
        dtype: Of the rows.
        even: See `Sides`.

    Returns:
        The cuts, and the tiles of `gradient_kernel` that suit them.
    """
    pad = kernels.PADDING.value
    gradients = sum(n * width for n, _, width in sizes) * dtype.itemsize
    smallest, largest = WORKSPACE_BYTES
    share = min(max(3 * gradients, smallest), largest) // workspace_dtype(dtype).itemsize // len(sizes)
    most_rows = max(BLOCK_LOCAL_ROWS // len(sizes) // pad, 1) * pad
    shapes = []
    for n, total, _ in sizes:
        rows = min(cdiv(max(1, n), pad) * pad, most_rows)
        across = cdiv(max(1, total), max(share // rows // pad, 1) * pad)
        shapes.append((rows, cdiv(cdiv(max(1, total), across), pad) * pad))

    def programs(tiles: Tiles) -> int:
        pairs = zip(shapes, sizes, strict=True)
        return sum(cdiv(rows, tiles.block_m) * cdiv(d, tiles.block_n) for (rows, _), (*_, d) in pairs)

    tiles = gradient_tiles(dtype, even, wide=True)
    if programs(tiles) < GRADIENT_PROGRAMS:
        tiles = gradient_tiles(dtype, even, wide=False)
    plane = sum(4 * n * width for n, _, width in sizes)
    splits = max(1, min(GRADIENT_PROGRAMS // programs(tiles), PARTIAL_BYTES // max(1, plane)))
    return [Cut(span, min(splits, cdiv(span, SPLIT_COLUMNS)), rows) for rows, span in shapes], tiles


class Plan(NamedTuple):
    """The task table and what follows from it."""

    table: Tensor
    """(tasks, FIELDS) int64."""
    vectors: Tensor
    """(2, rows) fp32: inverse norms and shifts, padded, task by task; held here because the table has its address."""
    partial: int
    """Elements of one plane of partial results."""
    workspace: int
    """Elements of the workspace; 0 in the forward pass."""


def plan(tasks: Sides, cuts: Sequence[Cut], pointers: Sequence[Sequence[Tensor]] = ()) -> Plan:
    """Build the table for tasks.

    Args:
        tasks: What to compute.
        cuts: Of the tasks.
        pointers: The backward's columns LSE_X, LSE_Y, WEIGHT and D_X, lists with one tensor per task; or nothing.
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
        row += [column[k].data_ptr() for column in pointers] or [0] * 4
        table.append([*row, cut.rows, workspace])
        base, x_at = base + n, y_at + 4 * cdiv(everything, pad) * pad
        partial += cut.splits * n * (width if cut.rows else 1)
        workspace += cut.rows * cut.span
    on_device = torch.tensor(table, dtype=torch.int64).to(vectors.device, non_blocking=True)
    return Plan(on_device, vectors, max(1, partial), workspace)


def _prepare(tasks: Sides, planned: Plan, *, shifts: bool) -> None:
    pad = kernels.PADDING.value
    rows = cdiv(max(max(n, total) for n, total, _ in tasks.sizes), pad) * pad
    kernels.prepare_kernel[(cdiv(rows, PREPARE_ROWS), 2 * len(tasks.x))](
        planned.table,
        TRITON_DTYPE[tasks.x[0].dtype],
        MINIMUM_NORM,
        SHIFTS=shifts,
        BLOCK_ROWS=PREPARE_ROWS,
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
    dtype, sizes = tasks.x[0].dtype, tasks.sizes
    tiles = similarity_tiles(dtype, tasks.even, architecture(temperature.device))
    cuts = forward_cuts(sizes, tiles)
    planned = plan(tasks, cuts)
    partial = temperature.new_empty(3, planned.partial)
    _prepare(tasks, planned, shifts=False)
    programs = max(cdiv(n, tiles.block_m) * cut.splits for (n, *_), cut in zip(sizes, cuts, strict=True))
    kernels.forward_kernel[(programs, len(sizes))](
        planned.table,
        temperature,
        partial,
        planned.partial,
        **similarity_constants(dtype, tiles, even=tasks.even),
        **tiles.options,
    )
    blocks = cdiv(max(n for n, *_ in sizes), COMBINE_ROWS)
    kernels.forward_combine_kernel[(blocks, len(sizes))](
        planned.table, partial, planned.partial, out, tasks.local, BLOCK_ROWS=COMBINE_ROWS, num_warps=1
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
        tasks: Both directions of all problems; all tensors of one dtype.
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
    dtype, sizes = tasks.x[0].dtype, tasks.sizes
    cuts, tiles = backward_cuts(sizes, dtype, tasks.even)
    planned = plan(tasks, cuts, (x_lse, y_lse_all, weight_all, d_x))
    partial = temperature.new_empty(planned.partial)
    _prepare(tasks, planned, shifts=True)
    _multiply_blocks(tasks, planned, cuts, tiles, temperature, partial)
    blocks = cdiv(max(n for n, *_ in sizes), COMBINE_ROWS)
    kernels.backward_combine_kernel[(blocks, len(sizes))](
        planned.table,
        temperature,
        d_loss,
        partial,
        d_temperature,
        DTYPE=TRITON_DTYPE[dtype],
        MINIMUM=MINIMUM_NORM,
        BLOCK_ROWS=COMBINE_ROWS,
        BLOCK_K=BLOCK_STREAM,
        num_warps=4,
    )
    return d_x, d_temperature


def _multiply_blocks(
    tasks: Sides, planned: Plan, cuts: Sequence[Cut], tiles: Tiles, temperature: Tensor, partial: Tensor
) -> None:
    """Form dS block by block and add each one's product with y to `partial`; the next block of all tasks at a time."""
    dtype, sizes = tasks.x[0].dtype, tasks.sizes
    workspace = temperature.new_empty(planned.workspace, dtype=workspace_dtype(dtype))
    square = similarity_tiles(dtype, tasks.even, architecture(temperature.device))
    square_programs = max(cdiv(cut.rows, square.block_m) * cdiv(cut.span, square.block_n) for cut in cuts)
    programs = max(cdiv(cut.rows, tiles.block_m) * cut.splits for cut in cuts)
    slices = cdiv(max(width for *_, width in sizes), tiles.block_n)
    square_constants = similarity_constants(dtype, square, even=tasks.even)
    constants = gradient_constants(dtype, tiles, even=tasks.even)
    for number in range(max(cut.blocks(n, total) for cut, (n, total, _) in zip(cuts, sizes, strict=True))):
        kernels.d_similarity_kernel[(square_programs, len(sizes))](
            planned.table, temperature, workspace, number, **square_constants, **square.options
        )
        kernels.gradient_kernel[(programs, len(sizes), slices)](
            planned.table, workspace, partial, number, **constants, **tiles.options
        )
