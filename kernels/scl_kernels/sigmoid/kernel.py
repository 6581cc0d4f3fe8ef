"""Triton kernels of `sigmoid_loss`, for the tasks and with the products of `scl_kernels.pairwise.kernel`.

The scale stands in the tables as its inverse, a temperature, so that everything shared with InfoNCE fits.
"""
# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl

from scl_kernels.pairwise.kernel import (
    FIELDS,
    GLOBAL,
    INVERSE_Y,
    LOCAL,
    OFFSET,
    PARTIAL,
    PROBLEM,
    ROWS,
    SPAN,
    SPLITS,
    VECTOR_X,
    VECTOR_Y,
    halves,
    inner_products,
    numbers_of,
    of_columns,
    of_rows,
    row_scale,
    same_as,
    tile_of_block,
    workspace_rows,
)

PARTS = tl.constexpr(4)
"""Of a tile in `d_similarity_kernel`, one after another: both results of a half would not fit into the registers."""


@triton.jit
def _log1p(x):
    """Return log(1 + x) for 0 <= x <= 1, to 2e-7 of it: x times a polynomial fitted at Chebyshev's points.

    Most pairs of a large batch have a softplus near 0, which log(1 + x) would round away: 1 + x has 24 bits. A
    polynomial needs fewer registers than a quotient.
    """
    y = 0.00525346 * x - 0.02958851
    y = y * x + 0.07836167
    y = y * x - 0.1367477
    y = y * x + 0.19111431
    y = y * x - 0.2484437
    y = y * x + 0.33319271
    y = y * x - 0.49999502
    return x * (y * x + 0.99999997)


@triton.jit
def _signed(
    tile, scale_x, inverse_y, bias, column, own, total, first, second, first_x, second_x, DUPLICATES: tl.constexpr
):  # fmt: skip
    """Return -z S of part of a tile, S, but -S for a pair that belongs together, and which do.

    What is ignored, and columns beyond the last, have a z S so large that all terms are 0; `own` and `total` count from
    the part's first column.
    """
    inside = (column < total)[None, :]
    is_own = column[None, :] == own[:, None]
    logits = tile * scale_x[:, None] * inverse_y[None, :] + bias
    if DUPLICATES == "negatives":
        return tl.where(inside, tl.where(is_own, -logits, logits), -1e30), is_own
    same = same_as(first, second, column, first_x, second_x)
    if DUPLICATES == "ignore":
        return tl.where(is_own, -logits, tl.where(same | ~inside, -1e30, logits)), is_own
    return tl.where(inside, tl.where(same, -logits, logits), -1e30), same


@triton.jit
def _sums(signed, is_own):
    """Return the sums over columns of softplus(-z S), of its derivative dS by S, and of dS S."""
    decay = tl.exp(-tl.abs(signed))
    slope = tl.where(signed >= 0, 1.0, decay) / (1.0 + decay)
    slopes = tl.sum(tl.where(is_own, -slope, slope), 1)
    products = tl.sum(slope * signed, 1)
    return tl.sum(tl.maximum(signed, 0.0) + _log1p(decay), 1), slopes, products


@triton.jit(do_not_specialize=["plane"])
def forward_kernel(
    table,  # (tasks, FIELDS) int64
    temperatures,  # (problems,) fp32: 1 / scale
    biases,  # (problems,) fp32
    partial,  # (3, plane) fp32, per task (splits, n): what `_sums` returns
    plane,
    DUPLICATES: tl.constexpr,
    DTYPE: tl.constexpr,
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Reduce BLOCK_M rows over one split; grid (row blocks * splits, tasks)."""
    task = table + tl.program_id(1) * FIELDS
    count = tl.load(task + LOCAL).to(tl.int32)
    splits = tl.load(task + SPLITS).to(tl.int32)
    first_row = tl.program_id(0) // splits * BLOCK_M
    if first_row >= count:
        return
    split = tl.program_id(0) % splits
    total = tl.load(task + GLOBAL).to(tl.int32)
    span = tl.load(task + SPAN).to(tl.int32)
    bias = tl.load(biases + tl.load(task + PROBLEM))
    rows = first_row + tl.arange(0, BLOCK_M)
    own = rows + tl.load(task + OFFSET).to(tl.int32)
    scale_x = row_scale(task, temperatures, rows)
    inverse_y = tl.load(task + INVERSE_Y).to(tl.pointer_type(tl.float32))
    first, second = numbers_of(task, DUPLICATES)
    first_x, second_x = of_rows(first, own, DUPLICATES), of_rows(second, own, DUPLICATES)
    half: tl.constexpr = BLOCK_N // 2
    column = tl.arange(0, half)  # compared within a half: constants of the code instead of registers
    losses = tl.zeros((BLOCK_M,), dtype=tl.float32)
    slopes = tl.zeros((BLOCK_M,), dtype=tl.float32)
    products = tl.zeros((BLOCK_M,), dtype=tl.float32)
    for start in range(split * span, tl.minimum(total, (split + 1) * span), BLOCK_N):
        left, right = inner_products(
            task, rows, start + tl.arange(0, BLOCK_N), DTYPE, EVEN, PRECISION, WIDEN, BLOCK_M, BLOCK_N, BLOCK_K
        )  # fmt: skip
        signed, is_own = _signed(
            left, scale_x, tl.load(inverse_y + start + column), bias, column, own - start, total - start,
            first + start, second + start, first_x, second_x, DUPLICATES,
        )  # fmt: skip
        loss, slope, product = _sums(signed, is_own)
        losses, slopes, products = losses + loss, slopes + slope, products + product
        middle = start + half
        signed, is_own = _signed(
            right, scale_x, tl.load(inverse_y + middle + column), bias, column, own - middle, total - middle,
            first + middle, second + middle, first_x, second_x, DUPLICATES,
        )  # fmt: skip
        loss, slope, product = _sums(signed, is_own)
        losses, slopes, products = losses + loss, slopes + slope, products + product
    out = partial + tl.load(task + PARTIAL) + split.to(tl.int64) * count + rows
    tl.store(out, losses, mask=rows < count)
    tl.store(out + plane, slopes, mask=rows < count)
    tl.store(out + 2 * plane, products, mask=rows < count)


@triton.jit
def _add(out, values, block_column):
    """Go on with what the same program of the blocks before has begun."""
    tl.store(out, values + tl.load(out, mask=block_column > 0, other=0.0))


@triton.jit(do_not_specialize=["block_row", "block_column", "plane"])
def d_similarity_kernel(
    table,  # (tasks, FIELDS) int64
    temperatures,  # (problems,) fp32: 1 / scale
    workspace,  # per task (ROWS, SPAN): dS_ij / |y_j| of this block in the next product's precision; padding gets 0
    block_row,  # which block of every task
    block_column,
    biases,  # (problems,) fp32
    sums,  # (3, plane) fp32, (tiles across, ROWS) of the row direction, the first task: what `_sums` returns
    plane,
    DUPLICATES: tl.constexpr,
    DTYPE: tl.constexpr,
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Write one tile of a block and, of rows, go on with its columns' sums; grid (tiles of a block, tasks)."""
    task = table + tl.program_id(1) * FIELDS
    row, start, tile_row, tile_column, real = tile_of_block(task, block_row, block_column, BLOCK_M, BLOCK_N)
    if not real:
        return
    rows = row + tl.arange(0, BLOCK_M)
    left, right = inner_products(
        task, rows, start + tl.arange(0, BLOCK_N), DTYPE, EVEN, PRECISION, WIDEN, BLOCK_M, BLOCK_N, BLOCK_K
    )  # fmt: skip
    scale_x = row_scale(task, temperatures, rows)
    bias = tl.load(biases + tl.load(task + PROBLEM))
    weight_x = tl.load(tl.load(task + VECTOR_X).to(tl.pointer_type(tl.float32)) + rows)
    own = rows + tl.load(task + OFFSET).to(tl.int32)
    total = tl.load(task + GLOBAL).to(tl.int32)
    first, second = numbers_of(task, DUPLICATES)
    first_x, second_x = of_rows(first, own, DUPLICATES), of_rows(second, own, DUPLICATES)
    first, second, own, total = first + start.to(tl.int64), second + start.to(tl.int64), own - start, total - start
    inverse_y, weight_y = of_columns(task, INVERSE_Y, start), of_columns(task, VECTOR_Y, start)
    out = workspace_rows(task, workspace, tile_row, tile_column, BLOCK_M)
    part: tl.constexpr = BLOCK_N // PARTS
    losses = tl.zeros((BLOCK_M,), dtype=tl.float32)
    slopes, products = losses, losses
    column = tl.arange(0, part)  # compared within a part: constants of the code instead of registers
    parts = halves(left, BLOCK_M, BLOCK_N // 2) + halves(right, BLOCK_M, BLOCK_N // 2)
    for k in tl.static_range(PARTS):
        inverse = tl.load(inverse_y + column)
        signed, is_own = _signed(
            parts[k], scale_x, inverse, bias, column, own, total, first, second, first_x, second_x, DUPLICATES
        )  # fmt: skip
        if tl.program_id(1) == 0:
            of_part = _sums(signed, is_own)
            losses, slopes, products = losses + of_part[0], slopes + of_part[1], products + of_part[2]
        slope = 1.0 / (1.0 + tl.exp(-signed))  # exp may be infinite: then 0
        slope = tl.where(is_own, -slope, slope) * weight_x[:, None] * (tl.load(weight_y + column) * inverse)[None, :]
        tl.store(out + column[None, :], slope.to(workspace.dtype.element_ty))
        inverse_y, weight_y, own, total = inverse_y + part, weight_y + part, own - part, total - part
        first, second, out = first + part, second + part, out + part
    if tl.program_id(1) == 0:
        at = tile_column // BLOCK_N * tl.load(task + ROWS) + tile_row + tl.arange(0, BLOCK_M)
        _add(sums + at, losses, block_column)
        _add(sums + (at + plane), slopes, block_column)
        _add(sums + (at + 2 * plane), products, block_column)
