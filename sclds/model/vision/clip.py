"""CLIP's vision transformer for images and videos in one packed buffer (docs/method.md §2); also OpenCLIP's.

Sizes are settings: B/16 is the paper's; L/14 and H/14 differ in width, depth, heads and `activation`. The last block of
released weights is dropped at conversion. Shape suffixes: R patch rows, N packed tokens, C channels.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scl_kernels import masked_gather
from sclds.batch import VisionViews
from sclds.config import VisionConfig
from sclds.model import flops
from sclds.model.initial import Draw, norm_value
from sclds.model.layers import LayerNorm
from sclds.model.recompute import recomputed
from sclds.model.vision.block import Interpolation, Rotary, VisionBlock, interpolate_positions
from sclds.model.vision.tower import VisionTower


class CLIPEmbedding(nn.Module):
    """Patch rows to packed tokens: patch, [CLS] or mask token, plus position and frame, then `ln_pre`."""

    def __init__(self, config: VisionConfig, interpolation: Interpolation):
        super().__init__()
        width = config.width
        self.width = width
        self.patch_inputs = 3 * config.patch_size**2
        self.interpolation = interpolation
        self.eps = config.layer_norm_eps
        native_grid = config.pretrained_image_size // config.patch_size
        self.patch_weight = nn.Parameter(torch.empty(width, self.patch_inputs))
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.mask_token = nn.Parameter(torch.empty(width))
        self.position_embedding = nn.Parameter(torch.empty(native_grid**2 + 1, width))
        self.temporal_embedding = nn.Parameter(torch.empty(config.max_frames, width))
        self.norm_weight = nn.Parameter(torch.empty(width))
        self.norm_bias = nn.Parameter(torch.empty(width))

    def forward(self, views: VisionViews) -> Tensor:
        """Embed (R, 3·p·p) pixels into (N, C) tokens; every frame is projected once, however many views read it."""
        rows = F.linear(views.patches.to(self.patch_weight.dtype), self.patch_weight)
        tables = [interpolate_positions(self.position_embedding, grid, self.interpolation) for grid in views.grids]
        return masked_gather(
            rows,
            torch.cat(tables),
            self.temporal_embedding,
            self.class_embedding,
            self.mask_token,
            self.norm_weight,
            self.norm_bias,
            views.source,
            views.position,
            views.frame,
            self.eps,
        )

    def initial_value(self, name: str, shape: torch.Size, draw: Draw) -> Tensor:
        """Return CLIP's initial values; what CLIP does not have is normal with `model.init_std`."""
        if name.startswith("norm_"):
            return norm_value(name, shape)
        if name == "patch_weight":
            # The framework's uniform ±1/√fan_in of a convolution has this deviation.
            return draw.normal(shape, (3 * self.patch_inputs) ** -0.5)
        own = name in ("temporal_embedding", "mask_token")
        return draw.normal(shape, None if own else self.width**-0.5)


class CLIPEncoder(VisionTower):
    """CLIP's vision encoder; a frame's [CLS] is a token of its own, which goes through all blocks."""

    activation: ClassVar[str] = "quick_gelu"
    dropped_blocks: ClassVar[int] = 1
    interpolation: ClassVar[Interpolation] = "bicubic"

    def __init__(self, config: VisionConfig, recompute: bool):
        super().__init__(config, recompute)
        self.recompute = recompute
        self.embedding = CLIPEmbedding(config, self.interpolation)
        activation = config.activation or self.activation
        self.blocks = nn.ModuleList(VisionBlock(config, activation) for _ in range(config.layers))
        self.norm = LayerNorm(config.width, eps=config.layer_norm_eps)

    def forward(self, views: VisionViews) -> Tensor:
        """Return (N, C) tokens after `ln_post`, in the packed order of `views.source`."""
        x = self.embedding(views)
        rotary = self.rotary(views)
        for block in self.blocks:
            x = recomputed(block, self.recompute and self.training, x, views.attention, views.videos, rotary)
        return self.norm(x)

    def rotary(self, views: VisionViews) -> Rotary | None:
        """Return the rotary positions of all tokens: CLIP has none."""
        return None

    @classmethod
    def flops(cls, config: VisionConfig, frames: int, patches: int, views: Sequence[int]) -> int:
        """Return the forward FLOPs of one sample: patches attend to their frame, a [CLS] to all frames."""
        total = flops.linear(frames * patches, 3 * config.patch_size**2, config.width)
        for shown in views:
            rows = frames * (1 + shown)
            attended = flops.attention(frames * shown, 1 + shown, config.width)
            attended += flops.attention(frames, rows, config.width)
            total += config.layers * VisionBlock.flops(config, rows, attended)
        return total
