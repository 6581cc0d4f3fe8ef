"""Triton kernels of `infonce`, for the tasks and with the products of `scl_kernels.pairwise.kernel`."""
# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl

from scl_kernels.pairwise.kernel import (
    BASE,
    FIELDS,
    GLOBAL,
    INVERSE_Y,
    LOCAL,
    OFFSET,
    PARTIAL,
    SPAN,
    SPLITS,
    VECTOR_X,
    VECTOR_Y,
    WEIGHT_X,
    inner_products,
    of_columns,
    row_scale,
    tile_of_block,
    workspace_rows,
)


@triton.jit
def _reduce(tile, scale_x, inverse_y, column, own, total, largest, summed, diagonal):
    """Go on with a row's diagonal, and the maximum and sum of all others, over half a tile.

    `own` and `total` count from its first column.
    """
    tile = tile * scale_x[:, None] * tl.load(inverse_y + column)[None, :]
    is_own = column[None, :] == own[:, None]
    diagonal += tl.sum(tl.where(is_own, tile, 0.0), 1)
    tile = tl.where((column < total)[None, :] & ~is_own, tile, float("-inf"))
    new_largest = tl.maximum(largest, tl.max(tile, 1))
    summed = summed * tl.exp(largest - new_largest) + tl.sum(tl.exp(tile - new_largest[:, None]), 1)
    return new_largest, summed, diagonal


@triton.jit
def forward_kernel(
    table,  # (tasks, FIELDS) int64
    temperatures,  # (problems,) fp32
    partial,  # (3, plane) fp32: running maximum and sum of all but the diagonal, diagonal
    plane,
    DTYPE: tl.constexpr,
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Reduce BLOCK_M rows of S over one split; grid (row blocks * splits, tasks)."""
    task = table + tl.program_id(1) * FIELDS
    count = tl.load(task + LOCAL).to(tl.int32)
    splits = tl.load(task + SPLITS).to(tl.int32)
    first_row = tl.program_id(0) // splits * BLOCK_M
    if first_row >= count:
        return
    split = tl.program_id(0) % splits
    total = tl.load(task + GLOBAL).to(tl.int32)
    span = tl.load(task + SPAN).to(tl.int32)
    rows = first_row + tl.arange(0, BLOCK_M)
    own = rows + tl.load(task + OFFSET).to(tl.int32)
    scale_x = row_scale(task, temperatures, rows)
    inverse_y = tl.load(task + INVERSE_Y).to(tl.pointer_type(tl.float32))
    half: tl.constexpr = BLOCK_N // 2
    column = tl.arange(0, half)  # compared within a half: constants of the code instead of registers
    largest = tl.full((BLOCK_M,), -3e38, dtype=tl.float32)  # finite, for a split may hold nothing but the diagonal
    summed = tl.zeros((BLOCK_M,), dtype=tl.float32)
    diagonal = tl.zeros((BLOCK_M,), dtype=tl.float32)
    for start in range(split * span, tl.minimum(total, (split + 1) * span), BLOCK_N):
        left, right = inner_products(
            task, rows, start + tl.arange(0, BLOCK_N), DTYPE, EVEN, PRECISION, WIDEN, BLOCK_M, BLOCK_N, BLOCK_K
        )  # fmt: skip
        largest, summed, diagonal = _reduce(
            left, scale_x, inverse_y + start, column, own - start, total - start, largest, summed, diagonal
        )  # fmt: skip
        middle = start + half
        largest, summed, diagonal = _reduce(
            right, scale_x, inverse_y + middle, column, own - middle, total - middle, largest, summed, diagonal
        )  # fmt: skip
    out = partial + tl.load(task + PARTIAL) + split.to(tl.int64) * count + rows
    tl.store(out, largest, mask=rows < count)
    tl.store(out + plane, summed, mask=rows < count)
    tl.store(out + 2 * plane, diagonal, mask=rows < count)


@triton.jit
def forward_combine_kernel(
    table,  # (tasks, FIELDS) int64
    partial,  # (3, plane) fp32, as above
    plane,
    out,  # (3, all_rows) fp32: log-sum-exp, diagonal, 1 where all others are smaller
    all_rows,
    BLOCK_ROWS: tl.constexpr,
):
    """Combine the splits of BLOCK_ROWS rows in order; grid (row blocks, tasks)."""
    task = table + tl.program_id(1) * FIELDS
    count = tl.load(task + LOCAL).to(tl.int32)
    rows = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    inside = rows < count
    source = partial + tl.load(task + PARTIAL) + rows
    largest = tl.load(source, mask=inside, other=0.0)
    summed = tl.load(source + plane, mask=inside, other=1.0)
    diagonal = tl.load(source + 2 * plane, mask=inside, other=0.0)
    for split in range(1, tl.load(task + SPLITS).to(tl.int32)):
        at = source + split * tl.load(task + LOCAL)
        more = tl.load(at, mask=inside, other=0.0)
        new_largest = tl.maximum(largest, more)
        summed = summed * tl.exp(largest - new_largest) + tl.load(at + plane, mask=inside, other=0.0) * tl.exp(
            more - new_largest
        )
        largest = new_largest
        diagonal += tl.load(at + 2 * plane, mask=inside, other=0.0)
    to = out + tl.load(task + BASE) + rows
    shift = tl.maximum(largest, diagonal)
    lse = shift + tl.log(summed * tl.exp(largest - shift) + tl.exp(diagonal - shift))
    tl.store(to, lse, mask=inside)
    tl.store(to + all_rows, diagonal, mask=inside)
    # a tie is not correct (one calculation gave both), nor is anything beside a NaN, which a maximum passes over
    correct = (diagonal > largest) & (lse == lse)
    tl.store(to + 2 * all_rows, correct.to(tl.float32), mask=inside)


@triton.jit
def _d_similarity(tile, scale_x, row_shift, twice_weight, inverse_y, column_shift, column, own):
    """Return dS_ij / |y_j| of half a tile; `own` counts from its first column."""
    inverse = tl.load(inverse_y + column)[None, :]
    tile = tile * scale_x[:, None] * inverse
    d_tile = tl.exp(tile - row_shift[:, None]) + tl.exp(tile - tl.load(column_shift + column)[None, :])
    return (d_tile - tl.where(column[None, :] == own[:, None], twice_weight[:, None], 0.0)) * inverse


@triton.jit(do_not_specialize=["number"])
def d_similarity_kernel(
    table,  # (tasks, FIELDS) int64
    temperatures,  # (problems,) fp32
    workspace,  # per task (ROWS, SPAN): dS_ij / |y_j| of this block, in the precision of the product that follows
    number,  # which block of every task
    DTYPE: tl.constexpr,
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Write one tile of a block; columns up to the next multiple of BLOCK_N get 0; grid (tiles of a block, tasks)."""
    task = table + tl.program_id(1) * FIELDS
    row, start, tile_row, tile_column, real = tile_of_block(task, number, BLOCK_M, BLOCK_N)
    if not real:
        return
    rows = row + tl.arange(0, BLOCK_M)
    left, right = inner_products(
        task, rows, start + tl.arange(0, BLOCK_N), DTYPE, EVEN, PRECISION, WIDEN, BLOCK_M, BLOCK_N, BLOCK_K
    )  # fmt: skip
    scale_x = row_scale(task, temperatures, rows)
    row_shift = tl.load(tl.load(task + VECTOR_X).to(tl.pointer_type(tl.float32)) + rows)
    own = rows + tl.load(task + OFFSET).to(tl.int32) - start
    weight = tl.load(task + WEIGHT_X).to(tl.pointer_type(tl.float32))
    twice_weight = 2.0 * tl.load(weight + rows, mask=rows < tl.load(task + LOCAL), other=0.0)
    inverse_y, column_shift = of_columns(task, INVERSE_Y, start), of_columns(task, VECTOR_Y, start)
    out = workspace_rows(task, workspace, tile_row, tile_column, BLOCK_M)
    half: tl.constexpr = BLOCK_N // 2
    column = tl.arange(0, half)  # compared within a half: constants of the code instead of registers
    left = _d_similarity(left, scale_x, row_shift, twice_weight, inverse_y, column_shift, column, own)
    tl.store(out + column[None, :], left.to(workspace.dtype.element_ty))
    inverse_y, column_shift, own = inverse_y + half, column_shift + half, own - half
    right = _d_similarity(right, scale_x, row_shift, twice_weight, inverse_y, column_shift, column, own)
    tl.store(out + (half + column)[None, :], right.to(workspace.dtype.element_ty))
