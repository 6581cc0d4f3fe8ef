"""SigLIP 2's vision transformer (arXiv 2502.14786), which has no [CLS] token, and how a frame's [CLS] is formed here.

SCL recovers the [CLS] feature of every frame, so one is made: blocks run on patches alone, each attending to the
patches of its own frame; after the last block and the final norm, the learned probe of the released attention pooling
attends to the patches of its image, and the pooled row is the frame's [CLS]. In a video, the probe of frame f is
`probe + temporal[f]` and attends to the patches of all frames, as CLIP's [CLS] does; without that addition, all
frames would pool the same. A view that drops patches pools over what is left of them.

For one complete image, patches are the hidden states, and [CLS] the pooled output, of the released model. Positions are
interpolated bilinearly with antialias, as SigLIP 2 does it. No block is dropped. Shape suffixes: R patch rows, N packed
tokens, P patches of all views, F frames of all views, C channels.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scl_kernels import CLASS_ROW, MASK_ROW, gather_rows
from sclds.batch import VisionViews
from sclds.batch.attention_plan import AttentionPlan
from sclds.config import VisionConfig
from sclds.model import flops
from sclds.model.attention import attend_kv
from sclds.model.initial import Draw
from sclds.model.layers import MLP, LayerNorm
from sclds.model.recompute import recomputed
from sclds.model.vision.block import VisionBlock, interpolate_positions, video_scheme
from sclds.model.vision.tower import VisionTower


class SigLIP2Embedding(nn.Module):
    """Patch rows to packed tokens: patch or mask token, plus position and frame; the probe in [CLS] rows."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        width = config.width
        self.width = width
        self.patch_inputs = 3 * config.patch_size**2
        native_grid = config.pretrained_image_size // config.patch_size
        self.patch_weight = nn.Parameter(torch.empty(width, self.patch_inputs))
        self.patch_bias = nn.Parameter(torch.empty(width))
        self.probe = nn.Parameter(torch.empty(width))
        self.mask_token = nn.Parameter(torch.empty(width))
        self.position_embedding = nn.Parameter(torch.empty(native_grid**2, width))
        self.temporal_embedding = nn.Parameter(torch.empty(config.max_frames, width))

    def forward(self, views: VisionViews) -> Tensor:
        """Embed (R, 3·p·p) pixels into (N, C) rows; every frame is projected once, however many views read it."""
        source = views.source
        rows = F.linear(views.patches.to(self.patch_weight.dtype), self.patch_weight, self.patch_bias)
        count = rows.shape[0]
        rows = torch.cat((rows, self.probe[None], self.mask_token[None]))
        source = torch.where(source == CLASS_ROW, count, torch.where(source == MASK_ROW, count + 1, source))
        nowhere = torch.zeros_like(self.position_embedding[:1])
        tables = [
            part
            for grid in views.grids
            for part in (nowhere, interpolate_positions(self.position_embedding, grid, "antialiased_bilinear", 0))
        ]
        times = torch.cat((torch.zeros_like(self.temporal_embedding[:1]), self.temporal_embedding))
        return (
            gather_rows(rows, source)
            + gather_rows(torch.cat(tables), views.position)
            + gather_rows(times, views.frame + 1)
        )

    def initial_value(self, name: str, shape: torch.Size, draw: Draw) -> Tensor:
        """Return values by CLIP's scheme; what released weights do not have is normal with `model.init_std`."""
        if name == "patch_bias":
            return torch.zeros(shape)
        if name == "patch_weight":
            return draw.normal(shape, (3 * self.patch_inputs) ** -0.5)
        own = name in ("temporal_embedding", "mask_token")
        return draw.normal(shape, None if own else self.width**-0.5)


class AttentionPooling(nn.Module):
    """The attention pooling of the released model: attention of probes over patches, then a feed-forward network."""

    def __init__(self, config: VisionConfig, activation: str):
        super().__init__()
        width = config.width
        self.width, self.depth, self.heads = width, config.layers, config.heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.norm = LayerNorm(width, eps=config.layer_norm_eps)
        self.mlp = MLP(width, config.inner_width, activation)

    def forward(self, probes_FC: Tensor, patches_PC: Tensor, plan: AttentionPlan) -> Tensor:
        """Return the pooled rows (F, C)."""
        q = self.q(probes_FC).unflatten(-1, (self.heads, -1))
        kv = self.kv(patches_PC).unflatten(-1, (2, self.heads, -1))
        x = self.out(attend_kv(q, kv, plan).flatten(1))
        return x + self.mlp(self.norm(x))

    def initial_value(self, name: str, shape: torch.Size, draw: Draw) -> Tensor:
        """Return what CLIP's scheme gives the same maps of a block."""
        return video_scheme(name, shape, draw, self.width, self.depth)

    @staticmethod
    def flops(config: VisionConfig, frames: int, patches: int) -> int:
        """Return the forward FLOPs of `frames` probes over `patches` patches."""
        width = config.width
        maps = flops.linear(frames, width, 2 * width) + flops.linear(patches, width, 2 * width)
        return maps + flops.attention(frames, patches, width) + flops.mlp(frames, width, config.inner_width)


class SigLIP2Encoder(VisionTower):
    """SigLIP 2's vision encoder with its attention pooling as the [CLS] of every frame."""

    activation: ClassVar[str] = "gelu_tanh"

    def __init__(self, config: VisionConfig, recompute: bool):
        super().__init__(config, recompute)
        self.recompute = recompute
        self.embedding = SigLIP2Embedding(config)
        activation = config.activation or self.activation
        self.blocks = nn.ModuleList(VisionBlock(config, activation) for _ in range(config.layers))
        self.norm = LayerNorm(config.width, eps=config.layer_norm_eps)
        self.pooling = AttentionPooling(config, activation)

    def forward(self, views: VisionViews) -> Tensor:
        """Return (N, C): patches after the final norm, pooled rows in the [CLS] rows, in the order of `views.source`.

        Raises:
            ValueError: The batch was packed for a tower with a [CLS] token.
        """
        pooling, recompute = views.pooling, self.recompute and self.training
        if pooling is None:
            raise ValueError("expected a batch packed with pools_frames, got one for a vision tower with a [CLS] token")
        x = self.embedding(views)
        probes, patches = gather_rows(x, pooling.cls_rows), gather_rows(x, pooling.patch_rows)
        for block in self.blocks:
            patches = recomputed(block, recompute, patches, pooling.attention)
        patches = self.norm(patches)
        pooled = recomputed(self.pooling, recompute, probes, patches, pooling.pooling)
        return gather_rows(torch.cat((pooled, patches)), pooling.merged)

    @classmethod
    def flops(cls, config: VisionConfig, frames: int, patches: int, views: Sequence[int]) -> int:
        """Return the forward FLOPs of one sample: patches attend to their frame, a probe to all frames."""
        total = flops.linear(frames * patches, 3 * config.patch_size**2, config.width)
        for shown in views:
            attended = flops.attention(frames * shown, shown, config.width)
            total += config.layers * VisionBlock.flops(config, frames * shown, attended)
            total += AttentionPooling.flops(config, frames, frames * shown)
        return total
