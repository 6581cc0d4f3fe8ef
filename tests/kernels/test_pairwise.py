"""How the launches of the pairwise losses cut their work: everything covered, whole tiles, bounded memory."""

import pytest
import torch

from scl_kernels.infonce.registration import memory as infonce_memory
from scl_kernels.pairwise import cuts as cutting
from scl_kernels.pairwise.kernel import PADDING
from scl_kernels.pairwise.tiles import WIDE, Tiles, similarity_tiles, workspace_dtype
from scl_kernels.roofline import total as summed
from scl_kernels.sigmoid.registration import memory as sigmoid_memory

SIZES = (
    [(1, 1, 512)],
    [(1024, 65536, 512)] * 2,
    [(64, 4096, 512)] * 2 + [(64, 4096, 768)] * 10,
    [(32768, 32768, 512)] * 2,
    [(0, 5, 16), (300, 301, 512)],
)
"""One sample; a rank of 64; a step's losses; one process with a large batch; a task without local rows."""


@pytest.mark.parametrize("sizes", SIZES)
def test_splits_of_the_forward_pass_cover_all_columns(sizes):
    for (_, total, _), cut in zip(sizes, cutting.forward_cuts(sizes, Tiles(64, 32, 64, 2)), strict=True):
        assert cut.span % 32 == 0
        assert (cut.splits - 1) * cut.span < total <= cut.splits * cut.span


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sizes", SIZES)
def test_blocks_of_the_backward_pass_are_whole_tiles_within_the_memory_bounds(sizes, dtype):
    for even in (False, True):
        cuts, tiles = cutting.backward_cuts(sizes, dtype, even)
        square = similarity_tiles(dtype, even, 90)
        item = workspace_dtype(dtype).itemsize
        for cut in cuts:
            assert cut.rows % square.block_m == cut.rows % tiles.block_m == 0
            assert cut.span % square.block_n == square.block_n % tiles.block_k == 0
        padded = sum(128 * 128 * item for _ in sizes)
        assert sum(cut.rows * cut.span * item for cut in cuts) <= cutting.WORKSPACE_BYTES[1] + padded
        planes = sum(4 * cut.splits * cut.rows * width for cut, (*_, width) in zip(cuts, sizes, strict=True))
        most = 4 * PADDING.value * WIDE * (cutting.BLOCK_PROGRAMS + sum(-(-width // WIDE) for *_, width in sizes))
        assert planes <= max(cutting.PARTIAL_BYTES, most)


def test_large_losses_of_one_process_stay_within_their_memory():
    """65,536 rows of 768 in bf16: beside the gradients, a row of blocks' fp32 sums and a block of dS."""
    terms = sigmoid_memory(65536, 1, 768)
    assert summed(terms) <= 0.25e9
    by_what = {term.what: term.amount for term in terms}
    assert by_what["gradients of a and b, bf16"] == 2 * 65536 * 768 * 2
    for width in (512, 768, 1024, 4096):
        terms = {term.what: term.amount for term in infonce_memory(2**20, 1, width)}
        assert terms["partial gradients of a row of blocks, fp32"] < 36e6, "whatever the number of rows"
