"""Triton kernels that losses over all pairs of rows share: all problems and both directions in one launch of each.

A problem's two directions are two tasks of the same calculation: x is the local side, y the global one. Everything that
differs between tasks (addresses, sizes, offsets) lies in one int64 table on the device, a row per task, so that losses
of different n, N and D share a launch without being copied together. In the forward pass a program owns BLOCK_M local
rows and a contiguous range ("split") of the global rows; splits write partial results that are added in a fixed order
afterwards, so nothing is atomic and results repeat bitwise.

The backward pass forms dS block by block in a workspace small enough for the L2 cache, in the precision of the product
that reads it, and multiplies each block with y: two plain matrix products, each similarity computed once, whatever D.
A loss brings its own forward kernel and its own kernel that writes dS out of a tile of similarities.
"""
# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl

# Columns of the task table.
X = tl.constexpr(0)  # address of x (n, D)
Y = tl.constexpr(1)  # address of y_all (N, D)
INVERSE_X = tl.constexpr(2)  # address of 1 / |x_i| (n,) fp32; this and the next three are padded to PADDING rows
INVERSE_Y = tl.constexpr(3)  # address of 1 / |y_j| (N,) fp32
VECTOR_X = tl.constexpr(4)  # address of w_x, or of LSE_X - log w_x, (n,) fp32
VECTOR_Y = tl.constexpr(5)  # address of w_y, or of LSE_Y - log w_y, (N,) fp32
LOCAL = tl.constexpr(6)  # n
GLOBAL = tl.constexpr(7)  # N
WIDTH = tl.constexpr(8)  # D
OFFSET = tl.constexpr(9)  # global index of x_0's partner
PROBLEM = tl.constexpr(10)  # which temperature
SPAN = tl.constexpr(11)  # global rows of a split in the forward pass, of a block in the backward pass
SPLITS = tl.constexpr(12)  # how many splits; the backward pass splits every block
BASE = tl.constexpr(13)  # first row of this task in the arrays over all local rows
PARTIAL = tl.constexpr(14)  # first element of this task in the array of partial results
LSE_X = tl.constexpr(15)  # address of the local log-sum-exps (n,) fp32
LSE_Y = tl.constexpr(16)  # address of the global log-sum-exps of the other direction (N,) fp32
WEIGHT_X = tl.constexpr(17)  # address of w_x (n,) fp32
WEIGHT_Y = tl.constexpr(18)  # address of w_y (N,) fp32
SHARE = tl.constexpr(19)  # address of w_j / (positives of j) (N,) fp32, where duplicates are positives
D_X = tl.constexpr(20)  # address of the gradient (n, D)
ROWS = tl.constexpr(21)  # local rows of a block in the backward pass
WORKSPACE = tl.constexpr(22)  # first element of this task in the workspace
FIRST = tl.constexpr(23)  # address of (N,) int32, where duplicates are not negatives: rows that share this number or
SECOND = tl.constexpr(24)  # this one are duplicates; these two and SHARE are followed by PADDING more
FIELDS = tl.constexpr(25)
PADDING = tl.constexpr(128)  # a multiple of every block of rows, so that the arrays padded to it need no masks


@triton.jit
def prepare_kernel(
    table,  # (tasks, FIELDS) int64
    DTYPE: tl.constexpr,
    MINIMUM: tl.constexpr,
    VECTORS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Write 1 / max(norm, MINIMUM) of every row, and what VECTORS says; grid (row blocks, 2 * tasks).

    VECTORS: `none`; `weights`, w with 0 for padding; `shifts`, lse - log w with infinity for padding: w exp(S - lse) is
    then exp(S - shift), a vector less to hold for every tile. Padding has an inverse norm of 0.
    """
    task = table + (tl.program_id(1) // 2) * FIELDS
    side = tl.program_id(1) % 2
    count = tl.load(task + LOCAL + side).to(tl.int32)
    width = tl.load(task + WIDTH).to(tl.int32)
    x = tl.load(task + X + side).to(tl.pointer_type(DTYPE))
    out = tl.load(task + INVERSE_X + side).to(tl.pointer_type(tl.float32))
    rows = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    real, padded = rows < count, rows < tl.cdiv(count, PADDING) * PADDING
    total = tl.zeros((BLOCK_ROWS,), dtype=tl.float32)
    for start in range(0, width, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        inside = real[:, None] & (k[None, :] < width)
        tile = tl.load(x + rows[:, None].to(tl.int64) * width + k[None, :], mask=inside, other=0.0).to(tl.float32)
        total += tl.sum(tile * tile, 1)
    tl.store(out + rows, tl.where(real, 1.0 / tl.maximum(tl.sqrt(total), MINIMUM), 0.0), mask=padded)
    if VECTORS != "none":
        weight = tl.load(task + WEIGHT_X + side).to(tl.pointer_type(tl.float32))
        w = tl.load(weight + rows, mask=real, other=0.0)
        if VECTORS == "shifts":
            lse = tl.load(task + LSE_X + side).to(tl.pointer_type(tl.float32))
            # NaN for a weight below 0
            shift = tl.load(lse + rows, mask=real, other=0.0) - tl.log(tl.where(w == 0, 1.0, w))
            w = tl.where(w == 0, float("inf"), shift)
        out = tl.load(task + VECTOR_X + side).to(tl.pointer_type(tl.float32))
        tl.store(out + rows, w, mask=padded)


@triton.jit
def product(left, right, total, PRECISION: tl.constexpr, WIDEN: tl.constexpr):
    """Return total + left @ right. WIDEN: Triton's interpreter multiplies bf16 operands as if they were integers."""
    if WIDEN:
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, total, input_precision=PRECISION)


@triton.jit
def halves(tile, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return a (ROWS, COLUMNS) tile's left and right half: a whole one and what is added to it fill the registers."""
    return tl.split(tl.permute(tl.reshape(tile, (ROWS, 2, COLUMNS // 2)), (0, 2, 1)))


@triton.jit
def inner_products(
    task,
    rows,
    columns,
    DTYPE: tl.constexpr,
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Return one tile of x y^T in fp32 as its left and its right (BLOCK_M, BLOCK_N / 2) half.

    What follows on a tile is done half by half, since vectors over columns and all of a tile do not fit into 128
    registers a thread, with which two programs share a multiprocessor.
    """
    x = tl.load(task + X).to(tl.pointer_type(DTYPE))
    y = tl.load(task + Y).to(tl.pointer_type(DTYPE))
    width = tl.load(task + WIDTH).to(tl.int32)
    if EVEN:
        x, y, width = tl.multiple_of(x, 16), tl.multiple_of(y, 16), width // BLOCK_K * BLOCK_K
    # Rows outside read the last row instead of needing a mask, which costs registers; their 1 / |x_i| is 0.
    x_rows = x + tl.minimum(rows, tl.load(task + LOCAL).to(tl.int32) - 1)[:, None].to(tl.int64) * width
    y_rows = y + tl.minimum(columns, tl.load(task + GLOBAL).to(tl.int32) - 1)[None, :].to(tl.int64) * width
    tile = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, width, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        if EVEN:
            left, right = tl.load(x_rows + k[None, :]), tl.load(y_rows + k[:, None])
        else:
            left = tl.load(x_rows + k[None, :], mask=(k < width)[None, :], other=0.0)
            right = tl.load(y_rows + k[:, None], mask=(k < width)[:, None], other=0.0)
        tile = product(left, right, tile, PRECISION, WIDEN)
    return halves(tile, BLOCK_M, BLOCK_N)


@triton.jit
def block_of(task, block_row, block_column):
    """Return the first local row, the first global row and the number of global rows of a task's block.

    A task may have fewer blocks than others of a launch; it has no rows there.
    """
    span = tl.load(task + SPAN).to(tl.int32)
    first_column = block_column * span
    columns = tl.maximum(tl.minimum(span, tl.load(task + GLOBAL).to(tl.int32) - first_column), 0)
    return block_row * tl.load(task + ROWS).to(tl.int32), first_column, columns


@triton.jit
def tile_of_block(task, block_row, block_column, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Return where this program's tile of a block lies, and whether it has any rows.

    That is (first local row, first global row, both again within the block, bool); columns up to the next multiple of
    BLOCK_N belong to it; grid (tiles of a block, tasks).
    """
    first_row, first_column, block_columns = block_of(task, block_row, block_column)
    across = tl.maximum(tl.cdiv(block_columns, BLOCK_N), 1)
    tile_row = tl.program_id(0) // across * BLOCK_M
    tile_column = tl.program_id(0) % across * BLOCK_N
    real = (tile_row < tl.load(task + ROWS)) & (first_row + tile_row < tl.load(task + LOCAL).to(tl.int32))
    real &= block_columns > 0
    return first_row + tile_row, first_column + tile_column, tile_row, tile_column, real


@triton.jit
def row_scale(task, temperatures, rows):
    """Return 1 / (|x_i| temperature) of local rows; 0 where there are none."""
    inverse_x = tl.load(task + INVERSE_X).to(tl.pointer_type(tl.float32))
    return tl.load(inverse_x + rows) / tl.load(temperatures + tl.load(task + PROBLEM))


@triton.jit
def of_columns(task, FIELD: tl.constexpr, start):
    """Return the address of a vector over global rows, from row `start` on."""
    return tl.load(task + FIELD).to(tl.pointer_type(tl.float32)) + start.to(tl.int64)


@triton.jit
def numbers_of(task, DUPLICATES: tl.constexpr):
    """Return the addresses of the numbers that duplicates share; without duplicates some that nobody reads."""
    kind: tl.constexpr = tl.pointer_type(tl.int32)
    if DUPLICATES == "negatives":
        return task.to(kind), task.to(kind)
    return tl.load(task + FIRST).to(kind), tl.load(task + SECOND).to(kind)


@triton.jit
def of_rows(pointer, own, DUPLICATES: tl.constexpr):
    """Return what stands at the global indices of local rows; without duplicates the indices."""
    if DUPLICATES == "negatives":
        return own
    return tl.load(pointer + own.to(tl.int64))


@triton.jit
def same_as(first, second, column, first_x, second_x):
    """Return which pairs of half a tile are duplicates, a row and its own partner among them."""
    return (tl.load(first + column)[None, :] == first_x[:, None]) | (
        tl.load(second + column)[None, :] == second_x[:, None]
    )


@triton.jit
def workspace_rows(task, workspace, tile_row, tile_column, BLOCK_M: tl.constexpr):
    """Return the addresses (BLOCK_M, 1) of a tile's rows in the workspace."""
    out = workspace + tl.multiple_of(tl.load(task + WORKSPACE) + tile_column, 16)
    return out + (tile_row + tl.arange(0, BLOCK_M))[:, None].to(tl.int64) * tl.multiple_of(tl.load(task + SPAN), 16)


@triton.jit(do_not_specialize=["block_row", "block_column"])
def gradient_kernel(
    table,  # (tasks, FIELDS) int64
    workspace,  # as above
    partial,  # fp32, per task (splits, ROWS, D): sum over the split's part of a row of blocks of dS_ij y_j / |y_j|
    block_row,  # which block of every task: the block_column-th one of this row of blocks
    block_column,
    DTYPE: tl.constexpr,
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Add a block's product with BLOCK_D columns of y; grid (row tiles of a block * splits, tasks, D slices)."""
    task = table + tl.program_id(1) * FIELDS
    first_row, first_column, block_columns = block_of(task, block_row, block_column)
    block_rows = tl.load(task + ROWS).to(tl.int32)
    splits = tl.load(task + SPLITS).to(tl.int32)
    tile_row = tl.program_id(0) // splits * BLOCK_M
    first_d = tl.program_id(2) * BLOCK_D
    count = tl.load(task + LOCAL).to(tl.int32)
    width = tl.load(task + WIDTH).to(tl.int32)
    outside = (tile_row >= block_rows) | (first_row + tile_row >= count) | (block_columns <= 0)
    if outside | (first_d >= width):
        return
    split = tl.program_id(0) % splits
    total = tl.load(task + GLOBAL).to(tl.int32)
    y = tl.load(task + Y).to(tl.pointer_type(DTYPE))
    stride = tl.multiple_of(tl.load(task + SPAN), 16)
    out = partial + tl.load(task + PARTIAL)
    if EVEN:
        y, out, width = tl.multiple_of(y, 16), tl.multiple_of(out, 16), width // BLOCK_D * BLOCK_D
    d = first_d + tl.arange(0, BLOCK_D)
    source = workspace + tl.multiple_of(tl.load(task + WORKSPACE), 16)
    source += (tile_row + tl.arange(0, BLOCK_M))[:, None].to(tl.int64) * stride + tl.arange(0, BLOCK_K)[None, :]
    part = tl.cdiv(tl.cdiv(block_columns, BLOCK_K), splits) * BLOCK_K
    gradient = tl.zeros((BLOCK_M, BLOCK_D), dtype=tl.float32)
    for start in range(split * part, tl.minimum(block_columns, (split + 1) * part), BLOCK_K):
        # Beyond the last global row dS is 0, so that any row will do.
        columns = tl.minimum(first_column + start + tl.arange(0, BLOCK_K), total - 1)
        y_rows = y + columns[:, None].to(tl.int64) * width
        if EVEN:
            y_tile = tl.load(y_rows + d[None, :])
        else:
            y_tile = tl.load(y_rows + d[None, :], mask=(d < width)[None, :], other=0.0)
        d_tile = tl.load(source + start)
        gradient = product(d_tile, y_tile.to(d_tile.dtype), gradient, PRECISION, WIDEN)
    rows = tile_row + tl.arange(0, BLOCK_M)
    half = first_d + tl.arange(0, BLOCK_D // 2)
    out += (split.to(tl.int64) * block_rows + rows[:, None]) * width + half[None, :]
    left, right = halves(gradient, BLOCK_M, BLOCK_D)
    inside = (first_row + rows < count)[:, None] & (half < width)[None, :]
    tl.store(out, left + tl.load(out, mask=inside & (first_column > 0), other=0.0), mask=inside)
    out += BLOCK_D // 2
    inside = (first_row + rows < count)[:, None] & (half < width - BLOCK_D // 2)[None, :]
    tl.store(out, right + tl.load(out, mask=inside & (first_column > 0), other=0.0), mask=inside)


@triton.jit(do_not_specialize=["block_row"])
def backward_combine_kernel(
    table,  # (tasks, FIELDS) int64
    temperatures,  # (problems,) fp32
    d_loss,  # (problems,) fp32
    partial,  # fp32, per task (splits, ROWS, D), as above
    block_row,  # which row of blocks of every task
    DTYPE: tl.constexpr,
    MINIMUM: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Add the splits in order and go back through the normalization; grid (groups of a block's rows, tasks)."""
    task = table + tl.program_id(1) * FIELDS
    count = tl.load(task + LOCAL).to(tl.int32)
    width = tl.load(task + WIDTH).to(tl.int32)
    problem = tl.load(task + PROBLEM)
    factor = tl.load(d_loss + problem) / tl.load(temperatures + problem)
    splits = tl.load(task + SPLITS).to(tl.int32)
    x = tl.load(task + X).to(tl.pointer_type(DTYPE))
    d_x = tl.load(task + D_X).to(tl.pointer_type(DTYPE))
    block_rows = tl.load(task + ROWS).to(tl.int32)
    first_row = block_row * block_rows
    of_block = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    rows = first_row + of_block
    row_inside = of_block < tl.minimum(block_rows, count - first_row)
    inverse_x = tl.load(task + INVERSE_X).to(tl.pointer_type(tl.float32))
    inverse = tl.load(inverse_x + rows, mask=row_inside, other=0.0)
    source = partial + tl.load(task + PARTIAL) + of_block[:, None].to(tl.int64) * width
    stride = block_rows.to(tl.int64) * width
    along = tl.zeros((BLOCK_ROWS,), dtype=tl.float32)
    for start in range(0, width, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        inside = row_inside[:, None] & (k[None, :] < width)
        at = rows[:, None].to(tl.int64) * width + k[None, :]
        gradient = tl.zeros((BLOCK_ROWS, BLOCK_K), dtype=tl.float32)
        for split in range(0, splits):
            gradient += tl.load(source + split * stride + k[None, :], mask=inside, other=0.0)
        along += tl.sum(gradient * tl.load(x + at, mask=inside, other=0.0).to(tl.float32), 1)
    along *= inverse * factor
    # A row whose norm was clamped is divided by a constant: nothing is projected out of its gradient.
    projected = tl.where(inverse < 1.0 / MINIMUM, along * inverse, 0.0)
    for start in range(0, width, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        inside = row_inside[:, None] & (k[None, :] < width)
        at = rows[:, None].to(tl.int64) * width + k[None, :]
        gradient = tl.zeros((BLOCK_ROWS, BLOCK_K), dtype=tl.float32)
        for split in range(0, splits):
            gradient += tl.load(source + split * stride + k[None, :], mask=inside, other=0.0)
        value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        gradient = (gradient * factor - value * projected[:, None]) * inverse[:, None]
        tl.store(d_x + at, gradient.to(DTYPE), mask=inside)
