"""How the similarities of pairwise losses are cut up, so that programs fill a device and memory is bounded."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from scl_kernels.pairwise import kernel as kernels
from scl_kernels.pairwise.tiles import WIDE, Tiles, gradient_tiles, workspace_dtype
from scl_kernels.sizes import cdiv

FORWARD_PROGRAMS = 264
"""Programs that fill a device, two per multiprocessor of an H100. A constant, so that results do not depend on it."""
GRADIENT_PROGRAMS = 128
"""The same for `gradient_kernel`, of which a multiprocessor holds one."""
MAXIMUM_SPLITS = 32
SPLIT_COLUMNS = 256
"""Fewest global rows that are worth a split of a block."""
PARTIAL_BYTES = 8 * 2**20
"""Bound on the memory of partial gradients as far as more than one split is concerned."""
WORKSPACE_BYTES = (8 * 2**20, 24 * 2**20)
"""Bounds on dS's workspace, three times the gradients in between; with a row of blocks' fp32 gradients (17 MB) it
about fills an H100's L2 cache."""
BLOCK_PROGRAMS = 128
"""Wide tiles of `gradient_kernel` in the rows of all tasks' blocks together: enough for a device, and no more, since
these rows' fp32 gradients are read and written once per block."""


class Cut(NamedTuple):
    """How a task's (n, N) similarities are cut up."""

    span: int
    """Global rows of a split in the forward pass, of a block in the backward pass."""
    splits: int
    """How many programs share the local rows of a tile; in the backward pass within every block."""
    rows: int = 0
    """Local rows of a block; 0 in the forward pass, which has no blocks."""

    def blocks(self, size: tuple[int, int, int]) -> tuple[int, int]:
        """Return how many rows and columns of blocks cover the (n, N) similarities of a task."""
        return cdiv(size[0], self.rows), cdiv(size[1], self.span)


Sizes = Sequence[tuple[int, int, int]]
"""(n, N, D) per task."""


def forward_cuts(sizes: Sizes, tiles: Tiles) -> list[Cut]:
    """Cut for the forward pass: enough programs to fill a device."""
    programs = sum(cdiv(n, tiles.block_m) for n, _, _ in sizes)
    splits = min(MAXIMUM_SPLITS, cdiv(FORWARD_PROGRAMS, max(1, programs)))
    cuts = []
    for _, total, _ in sizes:
        span = cdiv(cdiv(max(1, total), tiles.block_n), splits) * tiles.block_n
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
    slices = sum(cdiv(width, WIDE) for *_, width in sizes)
    most_rows = max(cdiv(BLOCK_PROGRAMS, slices), 1) * pad
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
    plane = sum(4 * rows * width for (rows, _), (*_, width) in zip(shapes, sizes, strict=True))
    splits = max(1, min(GRADIENT_PROGRAMS // programs(tiles), PARTIAL_BYTES // max(1, plane)))
    return [Cut(span, min(splits, cdiv(span, SPLIT_COLUMNS)), rows) for rows, span in shapes], tiles
