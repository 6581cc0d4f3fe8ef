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
from sclds.batch.packing import Batch
from sclds.config import FusionConfig
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
        q = self.q(x_NC)
        if plan.expand_own is not None:
            q = gather_rows(q, plan.expand_own)
        if plan.expand_other is None:
            kv = self.kv(other_MC[plan.other])
        else:
            kv = gather_rows(self.kv(other_MC), plan.expand_other[plan.other])
        k, v = kv.unflatten(-1, (2, self.heads, -1)).unbind(1)
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


@dataclass(frozen=True)
class _Stream:
    """Segments and rows of one stream, as the batch gives them."""

    views_cu: Tensor
    pair_cu: Tensor
    pair_rows: Tensor
    """From view rows to pair rows."""
    read_cu: Tensor
    """Of the pairs whose output is read."""
    read_rows: Tensor
    """Pair rows that heads read."""
    active: slice
    """Pairs whose output is read: one contiguous range."""

    def active_cu(self, pairs: slice) -> tuple[slice, Tensor]:
        """Return the rows of a range of pairs, and its cumulative lengths counted from its start."""
        first, last, _ = pairs.indices(len(self.pair_cu) - 1)
        start, end = int(self.pair_cu[first]), int(self.pair_cu[last])
        return slice(start, end), self.pair_cu[first : last + 1] - self.pair_cu[first]


class FusionPlan:
    """Plans of every layer and stream, from the batch's cumulative lengths."""

    def __init__(self, batch: Batch, layers: int, device: torch.device):
        self._layers = layers
        self._device = device
        text = _stream(batch, "text", slice(batch["text_pairs"]))
        vision = _stream(batch, "vision", slice(batch["first_vision_pair"], None))
        streams = ((text, vision), (vision, text))
        self._first = [self._first_layer(own, other) for own, other in streams] if layers > 1 else []
        self._middle = (
            [
                StreamPlan(self._plan(own.pair_cu, own.pair_cu), first.cross_attention)
                for own, first in zip((text, vision), self._first, strict=True)
            ]
            if layers > 2
            else []
        )
        self._last = [self._last_layer(own, other) for own, other in streams]

    def of(self, layer: int) -> tuple[StreamPlan, StreamPlan]:
        """Return the text and vision plan of a layer."""
        if layer == self._layers - 1:
            text, vision = self._last
        else:
            text, vision = self._first if layer == 0 else self._middle
        return text, vision

    def _first_layer(self, own: _Stream, other: _Stream) -> StreamPlan:
        return StreamPlan(
            self._plan(own.views_cu, own.views_cu),
            self._plan(own.pair_cu, other.pair_cu),
            expand_own=own.pair_rows,
            expand_other=other.pair_rows,
        )

    def _last_layer(self, own: _Stream, other: _Stream) -> StreamPlan:
        own_rows, own_cu = own.active_cu(own.active)
        other_rows, other_cu = other.active_cu(own.active)
        cross = self._plan(own.read_cu, other_cu)
        if self._layers == 1:
            views = self._plan(own.views_cu, own.views_cu)
            read = own.pair_rows[own.read_rows]
            return StreamPlan(views, cross, other=other_rows, expand_own=read, expand_other=other.pair_rows)
        return StreamPlan(
            self._plan(own.read_cu, own_cu),
            cross,
            own=own_rows,
            other=other_rows,
            query_rows=own.read_rows - own_rows.start,
        )

    def _plan(self, cu_q: Tensor, cu_k: Tensor) -> AttentionPlan:
        return plan_attention(cu_q, cu_k, self._device)


def _stream(batch: Batch, name: str, active: slice) -> _Stream:
    return _Stream(
        batch[f"{name}_cu"],
        batch[f"pair_{name}_cu"],
        batch[f"pair_{name}"],
        batch[f"read_{name}_cu"],
        batch[f"read_{name}"],
        active,
    )


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
