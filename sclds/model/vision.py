"""CLIP's vision transformer for pictures and clips in one packed buffer (docs/method.md §2).

Shape suffixes: R patch rows, N packed tokens, C channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scl_kernels import masked_gather
from sclds.batch import VisionViews
from sclds.config import VisionConfig
from sclds.model.attention import attend
from sclds.model.layers import MLP, LayerNorm, QKVLinear
from sclds.model.recompute import recomputed


class VisionEmbedding(nn.Module):
    """Patch rows to packed tokens: patch, [CLS] or mask token, plus position and frame, then `ln_pre`."""

    def __init__(self, config: VisionConfig, grids: tuple[int, ...]):
        super().__init__()
        width = config.width
        self.native_grid = config.pretrained_image_size // config.patch_size
        self.grids = grids
        self.eps = config.layer_norm_eps
        self.patch_weight = nn.Parameter(torch.empty(width, 3 * config.patch_size**2))
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.mask_token = nn.Parameter(torch.empty(width))
        self.position_embedding = nn.Parameter(torch.empty(self.native_grid**2 + 1, width))
        self.temporal_embedding = nn.Parameter(torch.empty(config.max_frames, width))
        self.norm_weight = nn.Parameter(torch.empty(width))
        self.norm_bias = nn.Parameter(torch.empty(width))

    def forward(self, patches: Tensor, source: Tensor, position: Tensor, frame: Tensor) -> Tensor:
        """Embed (R, 3·p·p) pixels into (N, C) tokens; every frame is projected once, however many views read it."""
        rows = F.linear(patches.to(self.patch_weight.dtype), self.patch_weight)
        table = torch.cat([interpolate_positions(self.position_embedding, grid) for grid in self.grids])
        return masked_gather(
            rows,
            table,
            self.temporal_embedding,
            self.class_embedding,
            self.mask_token,
            self.norm_weight,
            self.norm_bias,
            source,
            position,
            frame,
            self.eps,
        )


class VisionBlock(nn.Module):
    """Pre-norm transformer block; one attention module serves pictures, frames and clips."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        width, eps = config.width, config.layer_norm_eps
        self.heads = config.heads
        self.norm_1 = LayerNorm(width, eps=eps)
        self.qkv = QKVLinear(width)
        self.out = nn.Linear(width, width)
        self.norm_2 = LayerNorm(width, eps=eps)
        self.mlp = MLP(width, 4 * width, "quick_gelu")

    def forward(self, x_NC: Tensor, views: VisionViews) -> Tensor:
        """Return (N, C)."""
        q, k, v = (t.unflatten(-1, (self.heads, -1)) for t in self.qkv(self.norm_1(x_NC)))
        mixed = attend(q, k, v, views.attention)
        if (videos := views.videos) is not None:
            over_video = attend(q[videos.cls], k[videos.start :], v[videos.start :], videos.plan)
            mixed = mixed.index_copy(0, videos.cls, over_video)
        x = x_NC + self.out(mixed.flatten(1))
        return x + self.mlp(self.norm_2(x))


class VisionEncoder(nn.Module):
    """All vision views of a micro-batch in one call."""

    def __init__(self, config: VisionConfig, grids: tuple[int, ...], recompute: bool):
        super().__init__()
        self.recompute = recompute
        self.embedding = VisionEmbedding(config, grids)
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.layers))
        self.norm = LayerNorm(config.width, eps=config.layer_norm_eps)

    def forward(self, views: VisionViews) -> Tensor:
        """Return (N, C) tokens after `ln_post`, in the packed order of `views.source`."""
        x = self.embedding(views.patches, views.source, views.position, views.frame)
        for block in self.blocks:
            x = recomputed(block, self.recompute and self.training, x, views)
        return self.norm(x)


def interpolate_positions(table: Tensor, grid: int) -> Tensor:
    """Resize a (1 + P, C) position table to a grid of `grid` patches per side, [CLS] kept (docs/method.md §2)."""
    native = round((table.shape[0] - 1) ** 0.5)
    if native == grid:
        return table
    plane = table[1:].T.reshape(1, -1, native, native)
    # The CPU has no bicubic kernel for half types, and rounding positions twice would buy nothing elsewhere.
    resized = F.interpolate(plane.float(), size=(grid, grid), mode="bicubic", align_corners=False)
    return torch.cat((table[:1], resized.flatten(2)[0].T.to(table.dtype)))
