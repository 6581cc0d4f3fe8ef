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
    SHARE,
    SPAN,
    SPLITS,
    VECTOR_X,
    VECTOR_Y,
    WEIGHT_X,
    inner_products,
    numbers_of,
    of_columns,
    of_rows,
    row_scale,
    same_as,
    tile_of_block,
    workspace_rows,
)


@triton.jit
def _reduce(
    tile, scale_x, inverse_y, column, own, total, first, second, first_x, second_x, state, DUPLICATES: tl.constexpr
):  # fmt: skip
    """Go on with a row over half a tile: maximum and sum of all but its positives, the same sum with each exponential
    times its similarity, the positives, the best of them.

    `own` and `total` count from its first column. Where duplicates are positives, the sums are of these too, and count
    from the larger of maximum and best. What is left out is finite, so that a row may begin with nothing else, and no
    product of it with a 0 is NaN.
    """
    largest, summed, weighted, positive, best = state
    tile = tile * scale_x[:, None] * tl.load(inverse_y + column)[None, :]
    inside = (column < total)[None, :]
    if DUPLICATES == "positives":
        shift = tl.maximum(largest, best)
        same = same_as(first, second, column, first_x, second_x)
        positive += tl.sum(tl.where(same, tile, 0.0), 1)
        best = tl.maximum(best, tl.max(tl.where(same, tile, float("-inf")), 1))
        largest = tl.maximum(largest, tl.max(tl.where(inside & ~same, tile, float("-inf")), 1))
        new_shift = tl.maximum(largest, best)
        tile = tl.where(inside, tile, -1e30)
    else:
        shift = largest
        is_own = column[None, :] == own[:, None]
        positive += tl.sum(tl.where(is_own, tile, 0.0), 1)
        if DUPLICATES == "ignore":
            tile = tl.where(same_as(first, second, column, first_x, second_x), -1e30, tile)
        tile = tl.where(inside & ~is_own, tile, -1e30)
        largest = tl.maximum(largest, tl.max(tile, 1))
        new_shift = largest
    decay = tl.exp(shift - new_shift)
    share = tl.exp(tile - new_shift[:, None])
    summed = summed * decay + tl.sum(share, 1)
    weighted = weighted * decay + tl.sum(share * tile, 1)
    return largest, summed, weighted, positive, best


@triton.jit(do_not_specialize=["plane"])
def forward_kernel(
    table,  # (tasks, FIELDS) int64
    temperatures,  # (problems,) fp32
    partial,  # (4 or 5, plane) fp32: running maximum, sums of all but positives, positives, with several the largest
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
    first, second = numbers_of(task, DUPLICATES)
    first_x, second_x = of_rows(first, own, DUPLICATES), of_rows(second, own, DUPLICATES)
    half: tl.constexpr = BLOCK_N // 2
    column = tl.arange(0, half)  # compared within a half: constants of the code instead of registers
    largest = tl.full((BLOCK_M,), -3e38, dtype=tl.float32)  # finite, for a split may hold nothing but positives
    best = largest
    summed = tl.zeros((BLOCK_M,), dtype=tl.float32)
    weighted = tl.zeros((BLOCK_M,), dtype=tl.float32)
    positive = tl.zeros((BLOCK_M,), dtype=tl.float32)
    for start in range(split * span, tl.minimum(total, (split + 1) * span), BLOCK_N):
        left, right = inner_products(
            task, rows, start + tl.arange(0, BLOCK_N), DTYPE, EVEN, PRECISION, WIDEN, BLOCK_M, BLOCK_N, BLOCK_K
        )  # fmt: skip
        state = (largest, summed, weighted, positive, best)
        state = _reduce(
            left, scale_x, inverse_y + start, column, own - start, total - start,
            first + start, second + start, first_x, second_x, state, DUPLICATES,
        )  # fmt: skip
        middle = start + half
        largest, summed, weighted, positive, best = _reduce(
            right, scale_x, inverse_y + middle, column, own - middle, total - middle,
            first + middle, second + middle, first_x, second_x, state, DUPLICATES,
        )  # fmt: skip
    out = partial + tl.load(task + PARTIAL) + split.to(tl.int64) * count + rows
    tl.store(out, largest, mask=rows < count)
    tl.store(out + plane, summed, mask=rows < count)
    tl.store(out + 2 * plane, weighted, mask=rows < count)
    tl.store(out + 3 * plane, positive, mask=rows < count)
    if DUPLICATES == "positives":
        tl.store(out + 4 * plane, best, mask=rows < count)


@triton.jit(do_not_specialize=["plane", "all_rows"])
def forward_combine_kernel(
    table,  # (tasks, FIELDS) int64
    partial,  # (4 or 5, plane) fp32, as above
    plane,
    out,  # (4, all_rows) fp32: log-sum-exp, sum of positives, 1 where one of them is larger than all others, mean of
    # the similarities by their softmax
    all_rows,
    DUPLICATES: tl.constexpr,
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
    weighted = tl.load(source + 2 * plane, mask=inside, other=0.0)
    positive = tl.load(source + 3 * plane, mask=inside, other=0.0)
    if DUPLICATES == "positives":
        best = tl.load(source + 4 * plane, mask=inside, other=0.0)
    for split in range(1, tl.load(task + SPLITS).to(tl.int32)):
        at = source + split * tl.load(task + LOCAL)
        more, added = tl.load(at, mask=inside, other=0.0), tl.load(at + plane, mask=inside, other=0.0)
        if DUPLICATES == "positives":
            more_best = tl.load(at + 4 * plane, mask=inside, other=0.0)
            shift, more_shift = tl.maximum(largest, best), tl.maximum(more, more_best)
            largest, best = tl.maximum(largest, more), tl.maximum(best, more_best)
            new_shift = tl.maximum(largest, best)
        else:
            shift, more_shift = largest, more
            largest = tl.maximum(largest, more)
            new_shift = largest
        decay, more_decay = tl.exp(shift - new_shift), tl.exp(more_shift - new_shift)
        summed = summed * decay + added * more_decay
        weighted = weighted * decay + tl.load(at + 2 * plane, mask=inside, other=0.0) * more_decay
        positive += tl.load(at + 3 * plane, mask=inside, other=0.0)
    if DUPLICATES != "positives":
        best = positive
    to = out + tl.load(task + BASE) + rows
    # a tie is not correct (one calculation gave both), nor is anything beside a NaN, which a maximum passes over
    shift = tl.maximum(largest, best)
    if DUPLICATES != "positives":
        others, own = tl.exp(largest - shift), tl.exp(best - shift)
        summed = summed * others + own
        weighted = weighted * others + best * own
    lse = shift + tl.log(summed)
    tl.store(to, lse, mask=inside)
    tl.store(to + all_rows, positive, mask=inside)
    tl.store(to + 2 * all_rows, ((best > largest) & (lse == lse)).to(tl.float32), mask=inside)
    tl.store(to + 3 * all_rows, weighted / summed, mask=inside)


@triton.jit
def _d_similarity(
    tile, scale_x, row_shift, weight_x, inverse_y, column_shift, column, own, first, second, share_y, first_x, second_x,
    DUPLICATES: tl.constexpr,
):  # fmt: skip
    """Return dS_ij / |y_j| of half a tile; `own` counts from its first column.

    weight_x: twice the weight of a row, or its share of each positive.
    """
    inverse = tl.load(inverse_y + column)[None, :]
    # beyond the last column a similarity of 0 may be so far above a row's log-sum-exp that its exponential is infinite
    tile = tl.where(inverse == 0.0, float("-inf"), tile * scale_x[:, None] * inverse)
    if DUPLICATES == "ignore":  # before all else, so that what tells duplicates is not held any longer
        is_other = column[None, :] != own[:, None]
        tile = tl.where(same_as(first, second, column, first_x, second_x) & is_other, float("-inf"), tile)
    d_tile = tl.exp(tile - row_shift[:, None]) + tl.exp(tile - tl.load(column_shift + column)[None, :])
    if DUPLICATES == "positives":
        same = same_as(first, second, column, first_x, second_x)
        pulled = weight_x[:, None] + tl.load(share_y + column)[None, :]
        return (d_tile - tl.where(same, pulled, 0.0)) * inverse
    is_own = column[None, :] == own[:, None]
    return (d_tile - tl.where(is_own, weight_x[:, None], 0.0)) * inverse


@triton.jit(do_not_specialize=["block_row", "block_column"])
def d_similarity_kernel(
    table,  # (tasks, FIELDS) int64
    temperatures,  # (problems,) fp32
    workspace,  # per task (ROWS, SPAN): dS_ij / |y_j| of this block, in the precision of the product that follows
    block_row,  # which block of every task
    block_column,
    DUPLICATES: tl.constexpr,
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
    row, start, tile_row, tile_column, real = tile_of_block(task, block_row, block_column, BLOCK_M, BLOCK_N)
    if not real:
        return
    rows = row + tl.arange(0, BLOCK_M)
    left, right = inner_products(
        task, rows, start + tl.arange(0, BLOCK_N), DTYPE, EVEN, PRECISION, WIDEN, BLOCK_M, BLOCK_N, BLOCK_K
    )  # fmt: skip
    scale_x = row_scale(task, temperatures, rows)
    row_shift = tl.load(tl.load(task + VECTOR_X).to(tl.pointer_type(tl.float32)) + rows)
    own = rows + tl.load(task + OFFSET).to(tl.int32)
    first, second = numbers_of(task, DUPLICATES)
    first_x, second_x = of_rows(first, own, DUPLICATES), of_rows(second, own, DUPLICATES)
    share_y = of_columns(task, SHARE, start)
    if DUPLICATES == "positives":
        share = tl.load(task + SHARE).to(tl.pointer_type(tl.float32))
        weight_x = tl.load(share + own.to(tl.int64))
    else:
        weight = tl.load(task + WEIGHT_X).to(tl.pointer_type(tl.float32))
        weight_x = 2.0 * tl.load(weight + rows, mask=rows < tl.load(task + LOCAL), other=0.0)
    first, second, own = first + start.to(tl.int64), second + start.to(tl.int64), own - start
    inverse_y, column_shift = of_columns(task, INVERSE_Y, start), of_columns(task, VECTOR_Y, start)
    out = workspace_rows(task, workspace, tile_row, tile_column, BLOCK_M)
    half: tl.constexpr = BLOCK_N // 2
    column = tl.arange(0, half)  # compared within a half: constants of the code instead of registers
    left = _d_similarity(
        left, scale_x, row_shift, weight_x, inverse_y, column_shift, column, own,
        first, second, share_y, first_x, second_x, DUPLICATES,
    )  # fmt: skip
    tl.store(out + column[None, :], left.to(workspace.dtype.element_ty))
    inverse_y, column_shift, share_y, own = inverse_y + half, column_shift + half, share_y + half, own - half
    right = _d_similarity(
        right, scale_x, row_shift, weight_x, inverse_y, column_shift, column, own,
        first + half, second + half, share_y, first_x, second_x, DUPLICATES,
    )  # fmt: skip
    tl.store(out + (half + column)[None, :], right.to(workspace.dtype.element_ty))
