"""The fusion encoder: two streams that read each other, on all pairs of a micro-batch at once (docs/method.md §2).

What no head reads is not computed: the first self-attention and the first projections run once per *view*, not once
per pair that shows it, and the last layer runs only for the rows that a head reads. Both are exact (with dropout the
pairs of one view share that one mask).

Shape suffixes: N rows of the own stream, M rows of the other stream, C channels.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from scl_kernels import gather_rows
from sclds.config import FusionConfig
from sclds.data.packing import Batch
from sclds.model.attention import AttentionPlan, attend, plan_attention
from sclds.model.layers import MLP, PostNorm, SelfAttention
from sclds.model.recompute import recomputed


@dataclass(frozen=True)
class StreamPlan:
    """What one layer of one stream does with its rows."""

    self_attention: AttentionPlan
    cross_attention: AttentionPlan
    own: slice = field(default_factory=lambda: slice(None))
    """Input rows that take part: in the last layer, those of pairs whose output is read."""
    other: slice = field(default_factory=lambda: slice(None))
    """Rows of the other stream's input that serve as keys, after `expand_other`."""
    query_rows: Tensor | None = None
    """Rows of `own` that become queries of self-attention; None is all."""
    expand_own: Tensor | None = None
    """First layer: from view rows to pair rows (or to the read ones among them)."""
    expand_other: Tensor | None = None
    """First layer: from view rows to pair rows of the other stream."""


class CrossAttention(nn.Module):
    """Queries from the own stream, keys and values from the other."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x_NC: Tensor, other_MC: Tensor, plan: StreamPlan) -> Tensor:
        """Return (pair rows, C)."""
        q, kv = self.q(x_NC), self.kv(other_MC)
        if plan.expand_own is not None:
            q = gather_rows(q, plan.expand_own)
        if plan.expand_other is not None:
            kv = gather_rows(kv, plan.expand_other)
        k, v = kv[plan.other].unflatten(-1, (2, self.heads, -1)).unbind(1)
        dropout = self.dropout if self.training else 0.0
        return self.out(attend(q.unflatten(-1, (self.heads, -1)), k, v, plan.cross_attention, dropout).flatten(1))


class FusionLayer(nn.Module):
    """Self-attention, cross-attention, feed-forward; each post-norm."""

    def __init__(self, config: FusionConfig):
        super().__init__()
        width, eps, dropout = config.width, config.layer_norm_eps, config.dropout
        self.self_attention = SelfAttention(width, config.heads, dropout)
        self.self_norm = PostNorm(width, eps, dropout)
        self.cross_attention = CrossAttention(width, config.heads, dropout)
        self.cross_norm = PostNorm(width, eps, dropout)
        self.mlp = MLP(width, config.mlp_ratio * width, "gelu")
        self.mlp_norm = PostNorm(width, eps, dropout)

    def forward(self, x_NC: Tensor, other_MC: Tensor, plan: StreamPlan) -> Tensor:
        """Return the rows that `plan` asks for, (rows, C)."""
        x = x_NC[plan.own]
        residual = x if plan.query_rows is None else x[plan.query_rows]
        x = self.self_norm(self.self_attention(x, plan.self_attention, plan.query_rows), residual)
        crossed = self.cross_attention(x, other_MC, plan)
        x = self.cross_norm(crossed, x if plan.expand_own is None else gather_rows(x, plan.expand_own))
        return self.mlp_norm(self.mlp(x), x)


class FusionPlan:
    """Plans of every layer and stream, from the batch's cumulative lengths."""

    def __init__(self, batch: Batch, layers: int, device: torch.device):
        self.layers = layers
        cu_text, cu_vision = batch["pair_text_cu"], batch["pair_vision_cu"]
        text_pairs, first_vision = batch["text_pairs"], batch["first_vision_pair"]
        text_end, vision_start = int(cu_text[text_pairs]), int(cu_vision[first_vision])
        head_text, head_vision = cu_text[: text_pairs + 1], cu_vision[: text_pairs + 1]
        tail_text = cu_text[first_vision:] - cu_text[first_vision]
        tail_vision = cu_vision[first_vision:] - cu_vision[first_vision]
        text_views = plan_attention(batch["text_cu"], batch["text_cu"], device)
        vision_views = plan_attention(batch["vision_cu"], batch["vision_cu"], device)
        self.first_text = StreamPlan(
            text_views,
            plan_attention(cu_text, cu_vision, device),
            expand_own=batch["pair_text"],
            expand_other=batch["pair_vision"],
        )
        self.first_vision = StreamPlan(
            vision_views,
            plan_attention(cu_vision, cu_text, device),
            expand_own=batch["pair_vision"],
            expand_other=batch["pair_text"],
        )
        self.middle_text = StreamPlan(
            plan_attention(cu_text, cu_text, device) if layers > 2 else text_views, self.first_text.cross_attention
        )
        self.middle_vision = StreamPlan(
            plan_attention(cu_vision, cu_vision, device) if layers > 2 else vision_views,
            self.first_vision.cross_attention,
        )
        read_text, read_vision = batch["read_text"], batch["read_vision"]
        text_cross = plan_attention(batch["read_text_cu"], head_vision, device)
        vision_cross = plan_attention(batch["read_vision_cu"], tail_text, device)
        if layers == 1:
            self.last_text = StreamPlan(
                text_views,
                text_cross,
                other=slice(int(head_vision[-1])),
                expand_own=batch["pair_text"][read_text],
                expand_other=batch["pair_vision"],
            )
            self.last_vision = StreamPlan(
                vision_views,
                vision_cross,
                other=slice(int(cu_text[first_vision]), None),
                expand_own=batch["pair_vision"][read_vision],
                expand_other=batch["pair_text"],
            )
            return
        self.last_text = StreamPlan(
            plan_attention(batch["read_text_cu"], head_text, device),
            text_cross,
            own=slice(text_end),
            other=slice(int(head_vision[-1])),
            query_rows=read_text,
        )
        self.last_vision = StreamPlan(
            plan_attention(batch["read_vision_cu"], tail_vision, device),
            vision_cross,
            own=slice(vision_start, None),
            other=slice(int(cu_text[first_vision]), None),
            query_rows=read_vision - vision_start,
        )

    def of(self, layer: int) -> tuple[StreamPlan, StreamPlan]:
        """Return the text and vision plan of a layer."""
        if layer == self.layers - 1:
            return self.last_text, self.last_vision
        return (self.first_text, self.first_vision) if layer == 0 else (self.middle_text, self.middle_vision)


def fuse(
    text_layers: nn.ModuleList,
    vision_layers: nn.ModuleList,
    views: tuple[Tensor, Tensor],
    batch: Batch,
    recompute: bool,
) -> tuple[Tensor, Tensor]:
    """Run both streams over all pairs.

    Args:
        text_layers: `FusionLayer`s of the text stream.
        vision_layers: As many of the vision stream.
        views: (Nt, C) rows of the text views and (Nv, C) rows of the vision views, token type added.
        batch: Rows of pairs and of what is read.
        recompute: Checkpoint activations.

    Returns:
        (len(read_text), C) and (len(read_vision), C).
    """
    text, vision = views
    plan = FusionPlan(batch, len(text_layers), text.device)
    for number, (text_layer, vision_layer) in enumerate(zip(text_layers, vision_layers, strict=True)):
        text_plan, vision_plan = plan.of(number)
        text, vision = (
            recomputed(text_layer, recompute, text, vision, text_plan),
            recomputed(vision_layer, recompute, vision, text, vision_plan),
        )
    return text, vision
