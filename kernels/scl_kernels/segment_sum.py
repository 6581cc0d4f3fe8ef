"""Sum of rows by index: the backward of every gather, without atomics and in a fixed order.

A stable sort of the indices gives each destination row a segment of source rows. Segments are cut into chunks of CHUNK
rows. A destination with one chunk is written at once; longer ones (a temporal embedding read by every token) go through
fp32 partial sums, which a second kernel adds in order. All of the bookkeeping stays on the device: grids are upper
bounds that follow from the shapes, and nothing waits for the host.
"""
# mypy: disable-error-code="no-untyped-def"

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from scl_kernels.sizes import cdiv, power_of_two

CHUNK = 64
"""Rows that one program adds."""
CHUNK_TILE = 4
"""Rows that `chunk_kernel` reads at once."""
CHUNK_WARPS = 1
"""Most rows of a table are read once or twice: their chunks wait for four dependent loads and do little else, so that
as many as possible have to be on their way. With one warp a multiprocessor holds 32 of them, with four 12."""
COMBINE_GROUP = 8
"""Segments that a program of `combine_kernel` looks at; hardly any has partial sums."""
COMBINE_TILE = 4
"""Partial sums that it adds at once."""
INDEX_BLOCK = 256
"""Entries of a program that only writes indices."""


@triton.jit(do_not_specialize=["segments"])
def chunk_kernel(
    source,  # (N, D) rows to add
    order,  # (entries,) int64: source rows, sorted by destination
    start,  # (S + 1,) int64: first entry of each segment in `order`
    chunk_start,  # (S + 1,) int64: first chunk of each segment
    segment_of_chunk,  # (chunks,) int64: S for chunks beyond the last one
    partial_start,  # (S + 1,) int64: first partial sum of each segment; nothing for segments of one chunk
    out,  # (S, D)
    partial,  # (partials, D) fp32
    segments,
    width: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK_ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Add one chunk; grid (chunks,)."""
    chunk = tl.program_id(0)
    segment = tl.load(segment_of_chunk + chunk)
    if segment >= segments:
        return
    first_chunk = tl.load(chunk_start + segment)
    first = tl.load(start + segment) + (chunk - first_chunk) * CHUNK_ROWS
    last = tl.minimum(tl.load(start + segment + 1), first + CHUNK_ROWS)
    d = tl.arange(0, BLOCK_D)
    total = tl.zeros((BLOCK_D,), dtype=tl.float32)
    for entry in range(first, last, ROWS):
        entries = entry + tl.arange(0, ROWS)
        rows = tl.load(order + entries, mask=entries < last, other=0)
        inside = (entries < last)[:, None] & (d < width)[None, :]
        tile = tl.load(source + rows[:, None] * width + d[None, :], mask=inside, other=0.0)
        total += tl.sum(tile.to(tl.float32), 0)
    if tl.load(chunk_start + segment + 1) - first_chunk == 1:
        tl.store(out + segment * width + d, total.to(out.dtype.element_ty), mask=d < width)
    else:
        row = tl.load(partial_start + segment) + chunk - first_chunk
        tl.store(partial + row * width + d, total, mask=d < width)


@triton.jit(do_not_specialize=["segments"])
def combine_kernel(
    partial,  # (partials, D) fp32
    partial_start,  # (S + 1,) int64
    out,  # (S, D)
    segments,
    width: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Add the partial sums of those of GROUP segments that have any; grid (groups of segments,)."""
    segment = tl.program_id(0).to(tl.int64) * GROUP
    end = tl.minimum(segment + GROUP, segments)
    if tl.load(partial_start + segment) == tl.load(partial_start + end):
        return
    d = tl.arange(0, BLOCK_D)
    while segment < end:
        first = tl.load(partial_start + segment)
        last = tl.load(partial_start + segment + 1)
        if first < last:
            total = tl.zeros((BLOCK_D,), dtype=tl.float32)
            for row in range(first, last, ROWS):
                rows = row + tl.arange(0, ROWS)
                inside = (rows < last)[:, None] & (d < width)[None, :]
                at = partial + rows[:, None].to(tl.int64) * width + d[None, :]
                total += tl.sum(tl.load(at, mask=inside, other=0.0), 0)
            tl.store(out + segment * width + d, total.to(out.dtype.element_ty), mask=d < width)
        segment += 1


@triton.jit(do_not_specialize=["count", "first_rows", "second_rows", "third_rows"])
def joint_destination_kernel(
    first,  # (N,) int64: rows of three tables
    second,  # (N,) int64
    third,  # (N,) int64
    out,  # (3, N) int32: rows of the three tables laid on one another; their number for what is out of range
    count,
    first_rows,
    second_rows,
    third_rows,
    BLOCK: tl.constexpr,
):
    """Write where the rows of three tables lie in a joint one; grid (blocks of N,)."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    a = tl.load(first + at, mask=inside, other=0)
    b = tl.load(second + at, mask=inside, other=0)
    c = tl.load(third + at, mask=inside, other=0)
    beyond = first_rows + second_rows + third_rows
    a = tl.where((a >= 0) & (a < first_rows), a, beyond)
    b = tl.where((b >= 0) & (b < second_rows), b + first_rows, beyond)
    c = tl.where((c >= 0) & (c < third_rows), c + first_rows + second_rows, beyond)
    tl.store(out + at, a.to(tl.int32), mask=inside)
    tl.store(out + count + at, b.to(tl.int32), mask=inside)
    tl.store(out + tl.cast(count, tl.int64) * 2 + at, c.to(tl.int32), mask=inside)


class Segments(NamedTuple):
    """Which source rows each destination row adds, and in which chunks; all int64 on the indices' device."""

    order: Tensor
    """(N,) entries, sorted by destination."""
    start: Tensor
    """(S + 1,) first entry of each destination in `order`."""
    chunk_start: Tensor
    """(S + 1,) first chunk of each destination; an empty one has one, which writes zeros."""
    segment_of_chunk: Tensor
    """(chunks,) destination of each chunk; S beyond the last."""
    partial_start: Tensor
    """(S + 1,) first partial sum of each destination."""


def segments(index: Tensor, count: int) -> Segments:
    """Group entries by destination.

    Args:
        index: (N,) integers, the destination of each entry; those outside [0, count) belong to none.
        count: Number of destinations S, at least 1.

    Returns:
        The grouping; `segment_of_chunk` has as many entries as chunks are possible for N and S.
    """
    small = torch.int32 if count < 2**31 - 1 else torch.int64  # a radix sort of 32-bit keys moves half of the bytes
    ordered, order = torch.sort(index.clamp(-1, count).to(small), stable=True)
    start = torch.searchsorted(ordered, torch.arange(count + 1, device=index.device, dtype=small))
    chunks = ((start.diff() + CHUNK - 1) // CHUNK).clamp(min=1)
    chunk_start = torch.nn.functional.pad(chunks.cumsum(0), (1, 0))
    partial_start = torch.nn.functional.pad(torch.where(chunks > 1, chunks, 0).cumsum(0), (1, 0))
    possible = torch.arange(count + index.shape[0] // CHUNK, device=index.device)
    return Segments(order, start, chunk_start, torch.searchsorted(chunk_start[1:], possible, right=True), partial_start)


def joint_destination(index: tuple[Tensor, Tensor, Tensor], rows: tuple[int, int, int]) -> Tensor:
    """Number the rows of three tables as those of one, so that one `segment_sum` serves them all.

    Args:
        index: (N,) int64 rows of each table; those out of range belong to none.
        rows: Number of rows of each table, together less than 2^31.

    Returns:
        (3 N,) int32.
    """
    count = index[0].shape[0]
    out = torch.empty(3 * count, dtype=torch.int32, device=index[0].device)
    if count:
        grid = (cdiv(count, INDEX_BLOCK),)
        joint_destination_kernel[grid](*(i.contiguous() for i in index), out, count, *rows, INDEX_BLOCK, num_warps=4)
    return out


def sum_by_index(source: Tensor, index: Tensor, count: int) -> Tensor:
    """Add the rows of `source` by destination with PyTorch's own deterministic sum, the backward of an embedding.

    It needs few launches, but writes a partial sum in fp32 for every destination, and adds those of one destination one
    after the other: it suits small inputs.

    Args:
        source: (N, D).
        index: (N,) integers in [0, count], the destination of each row; `count` is none.
        count: Number of destinations.

    Returns:
        (count, D) in `source`'s dtype; zeros where nothing arrives.
    """
    return torch.ops.aten.embedding_dense_backward(source, index, count + 1, count, False)[:count]


def segment_sum(source: Tensor, index: Tensor, count: int) -> Tensor:
    """Add the rows of `source` by destination, with fp32 sums, in a fixed order.

    Args:
        source: (N, D) fp16, bf16 or fp32, contiguous.
        index: (k N,) integers, the destinations of every row, k of them: entry e is one of row e % N. Entries outside
            [0, count) are left out.
        count: Number of destinations.

    Returns:
        (count, D) in `source`'s dtype; zeros where nothing arrives.
    """
    rows, width = source.shape
    if rows == 0 or count == 0:
        return source.new_zeros(count, width)
    grouped = segments(index, count)
    entries = index.shape[0]
    if entries > rows:
        grouped = grouped._replace(order=grouped.order % rows)
    out = source.new_empty(count, width)
    partial = source.new_empty(max(1, 2 * entries // CHUNK), width, dtype=torch.float32)
    block = power_of_two(width)
    chunk_kernel[(grouped.segment_of_chunk.shape[0],)](
        source,
        *grouped,
        out,
        partial,
        count,
        width,
        ROWS=CHUNK_TILE,
        CHUNK_ROWS=CHUNK,
        BLOCK_D=block,
        num_warps=CHUNK_WARPS,
    )
    if entries > CHUNK:
        combine_kernel[(cdiv(count, COMBINE_GROUP),)](
            partial,
            grouped.partial_start,
            out,
            count,
            width,
            GROUP=COMBINE_GROUP,
            ROWS=COMBINE_TILE,
            BLOCK_D=block,
            num_warps=4,
        )
    return out
