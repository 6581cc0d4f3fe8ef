"""Patches are cut row by row, and their values lie channel by channel."""

import pytest
import torch

from sclds.batch.patches import patchify


@pytest.mark.parametrize(("lead", "height", "width", "patch"), [((), 2, 2, 2), ((3,), 6, 4, 2), ((2, 1), 3, 9, 3)])
def test_patches_are_the_squares_of_a_frame(lead, height, width, patch):
    pixels = torch.arange(torch.Size((*lead, 3, height, width)).numel()).view(*lead, 3, height, width)
    found = patchify(pixels, patch)
    squares = [
        pixels[..., y : y + patch, x : x + patch].flatten(-3)
        for y in range(0, height, patch)
        for x in range(0, width, patch)
    ]
    assert torch.equal(found, torch.stack(squares, dim=-2))
    assert found.is_contiguous()
    assert found.data_ptr() != pixels.data_ptr(), "a copy, also where one patch is the whole frame"
