"""Pixels as the rows of patches that the vision encoder reads."""

import torch
from torch import Tensor


def patchify(pixels: Tensor, patch: int) -> Tensor:
    """Cut frames into patches.

    Args:
        pixels: (..., 3, H, W).
        patch: p, side of a patch in pixels; divides H and W.

    Returns:
        (..., (H/p)·(W/p), 3·p·p): channel-major inside a patch, patches row-major; always a copy.
    """
    grid = pixels.unflatten(-2, (-1, patch)).unflatten(-1, (-1, patch))
    # (..., 3, y, p, x, p) to (..., y, x, 3, p, p)
    return grid.movedim((-4, -2), (-5, -4)).clone(memory_format=torch.contiguous_format).flatten(-3).flatten(-3, -2)


def unpatchify(patches: Tensor, grid: int) -> Tensor:
    """Return frames (F, 3, g·p, g·p) of their patches (F · g · g, 3·p·p), row-major: what `patchify` cut."""
    patch = round((patches.shape[-1] / 3) ** 0.5)
    cells = patches.view(-1, grid, grid, 3, patch, patch)
    return cells.permute(0, 3, 1, 4, 2, 5).reshape(len(cells), 3, grid * patch, grid * patch)
