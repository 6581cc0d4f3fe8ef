"""Perception Encoder (PE core, arXiv 2504.13181): CLIP's vision transformer with rotary positions beside learned ones.

Queries and keys of the patch at (row, column), both counted from 1, are turned by angles of its column in the first
half of a head's channels and of its row in the second; [CLS] is not turned. The learned table is interpolated
bilinearly, the rotary angles are those of the plain grid at every resolution, as in the released code. The attention
pooling of the released model is not used: SCL reads the frame's [CLS] token. PE core G has no [CLS] token, so
`sclds convert` refuses it. No block is dropped.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from scl_kernels import gather_rows
from sclds.batch import VisionViews
from sclds.config import VisionConfig
from sclds.model.vision.block import Interpolation, Rotary
from sclds.model.vision.clip import CLIPEncoder

THETA = 10000.0
"""Base of the rotary frequencies."""


class PerceptionEncoder(CLIPEncoder):
    """PE core: images and frames are turned alike, since its rotary positions know no time."""

    activation: ClassVar[str] = "gelu"
    dropped_blocks: ClassVar[int] = 0
    interpolation: ClassVar[Interpolation] = "bilinear"

    def __init__(self, config: VisionConfig, recompute: bool):
        super().__init__(config, recompute)
        self.head_width = config.width // config.heads

    def rotary(self, views: VisionViews) -> Rotary | None:
        """Return cosines and sines (N, head width / 2), fp32, of the rows of the position tables that tokens have."""
        position = views.position
        angles = gather_rows(rotary_angles(views.grids, self.head_width, position.device), position)
        return angles.cos(), angles.sin()


def rotary_angles(grids: Sequence[int], head_width: int, device: torch.device | None = None) -> Tensor:
    """Return the angles of all grids' position tables, one below the other: (sum of 1 + grid², head_width / 2) fp32."""
    count = head_width // 4
    frequencies = THETA ** -(torch.arange(count, device=device).float() / count)
    tables = []
    for grid in grids:
        line = (torch.arange(grid, device=device).float() + 1)[:, None] * frequencies
        columns, rows = line.expand(grid, grid, -1), line[:, None].expand(grid, grid, -1)
        tables += [torch.zeros(1, 2 * count, device=device), torch.cat((columns, rows), dim=-1).flatten(0, 1)]
    return torch.cat(tables)
