"""What vision towers share: the pre-norm block, its initial weights, and positions at another resolution.

Shape suffixes: N packed tokens, C channels, H heads, D channels of a head.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sclds.batch.attention_plan import AttentionPlan
from sclds.batch.types import VideoAttention
from sclds.config import VisionConfig
from sclds.model import flops
from sclds.model.attention import attend, attend_qkv
from sclds.model.initial import Draw
from sclds.model.layers import MLP, LayerNorm, QKVLinear, SumNorm, rotate

Rotary = tuple[Tensor, Tensor]
"""Cosines and sines (N, D/2) by which pairs of channels of queries and keys are turned."""
Interpolation = Literal["bicubic", "bilinear", "antialiased_bilinear"]


class VisionBlock(nn.Module):
    """Pre-norm transformer block; one attention module serves images, frames and videos."""

    def __init__(self, config: VisionConfig, activation: str):
        super().__init__()
        width, eps = config.width, config.layer_norm_eps
        self.width, self.depth = width, config.layers
        self.heads = config.heads
        self.norm_1 = LayerNorm(width, eps=eps)
        self.qkv = QKVLinear(width)
        self.out = nn.Linear(width, width)
        self.norm_2 = SumNorm(width, eps)
        self.mlp = MLP(width, config.inner_width, activation)

    def forward(
        self, x_NC: Tensor, plan: AttentionPlan, videos: VideoAttention | None = None, rotary: Rotary | None = None
    ) -> Tensor:
        """Return (N, C).

        Args:
            x_NC: Packed tokens.
            plan: Who attends to whom.
            videos: The rows of frame [CLS] tokens that attend to all frames instead.
            rotary: Rotary positions of the tokens.
        """
        qkv = self.qkv(self.norm_1(x_NC))[1].unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.unbind(1)
        if rotary is None:
            mixed = attend_qkv(qkv, plan)
        else:
            q, k = rotate(q, *rotary), rotate(k, *rotary)
            mixed = attend(q, k, v, plan)
        if videos is not None:
            over_video = attend(q[videos.cls], k[videos.start :], v[videos.start :], videos.plan)
            mixed = mixed.index_copy(0, videos.cls, over_video)
        normalized, x = self.norm_2(self.out(mixed.flatten(1)), x_NC)
        return x + self.mlp(normalized)

    def initial_value(self, name: str, shape: torch.Size, draw: Draw) -> Tensor:
        """Return what CLIP's own scheme gives."""
        return video_scheme(name, shape, draw, self.width, self.depth)

    @staticmethod
    def flops(config: VisionConfig, rows: int, attended: int) -> int:
        """Return the forward FLOPs of one block on `rows` tokens, attention (`attended` FLOPs) included."""
        width = config.width
        return flops.linear(rows, width, 4 * width) + flops.mlp(rows, width, config.inner_width) + attended


def video_scheme(name: str, shape: torch.Size, draw: Draw, width: int, depth: int) -> Tensor:
    """Return initial values by CLIP's own scheme (arXiv 2103.00020, released code)."""
    if name.endswith("bias"):
        return torch.zeros(shape)
    if "mlp.up." in name:
        return draw.normal(shape, (2 * width) ** -0.5)
    if "out." in name or "mlp.down." in name:
        return draw.normal(shape, width**-0.5 * (2 * depth) ** -0.5)
    return draw.normal(shape, width**-0.5)


def interpolate_positions(table: Tensor, grid: int, mode: Interpolation = "bicubic", class_rows: int = 1) -> Tensor:
    """Resize a position table to another grid (docs/method.md §2).

    Args:
        table: (class_rows + P, C).
        grid: Patches per side.
        mode: `bicubic` for CLIP, `bilinear` for Perception Encoder, `antialiased_bilinear` for SigLIP 2.
        class_rows: Rows of [CLS] in front, which are kept.

    Returns:
        (class_rows + grid², C).
    """
    native = round((table.shape[0] - class_rows) ** 0.5)
    if native == grid:
        return table
    plane = table[class_rows:].T.reshape(1, -1, native, native)
    # The CPU has no bicubic kernel for half types, and rounding positions twice would buy nothing elsewhere.
    resized = F.interpolate(
        plane.float(),
        size=(grid, grid),
        mode="bicubic" if mode == "bicubic" else "bilinear",
        align_corners=False,
        antialias=mode == "antialiased_bilinear",
    )
    return torch.cat((table[:class_rows], resized.flatten(2)[0].T.to(table.dtype)))
