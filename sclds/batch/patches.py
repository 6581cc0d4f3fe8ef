"""Pixels as the rows of patches that the vision encoder reads."""

from torch import Tensor


def patchify(frames: Tensor, patch: int) -> Tensor:
    """Cut (F, 3, S, S) frames into (F · patches, 3 · patch · patch) rows, channel-major inside a patch."""
    count, channels, height, width = frames.shape
    grid = frames.reshape(count, channels, height // patch, patch, width // patch, patch)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels * patch * patch)
