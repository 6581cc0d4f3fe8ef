"""The fusion encoder: two streams that read each other, on all pairs of a micro-batch at once (docs/method.md §2).

What no head reads is not computed: the first self-attention and the first projections run once per *view*, not once
per pair that shows it, and the last layer runs only for the rows that a head reads. Both are exact (with dropout the
pairs of one view share that one mask). Dropout draws from the keys of `sclds.batch.dropout_keys`; that of attention
weights, which lives inside the attention kernels, from PyTorch's generator.

Shape suffixes: N rows of the own stream, M rows of the other stream, C channels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from torch import Tensor, nn

from scl_kernels import gather_rows
from sclds.batch import Batch
from sclds.batch.attention_plan import StreamAttention
from sclds.config import FusionConfig
from sclds.model import flops
from sclds.model.attention import attend_kv
from sclds.model.groups import ParameterGroup
from sclds.model.layers import MLP, PostNorm, SelfAttention
from sclds.model.recompute import recomputed
from sclds.objectives.table import Stream

_FIRST_SITE: dict[Stream, int] = {"text": 2**16, "vision": 2**17}
"""Where the dropout of each stream's layers draws: three places a layer, behind those of the text tower."""
Attended: TypeAlias = Callable[[Tensor, Tensor], None]
"""Is told the queries (N, H, D) and keys (M, H, D) of a cross-attention: fused attention gives no weights."""


@dataclass(frozen=True)
class StreamPlan:
    """What one layer of one stream does with its rows."""

    attention: StreamAttention
    """Who attends to whom, and the rows that take part."""
    query_rows: Tensor | None = None
    """Rows of the own ones that become queries of self-attention; None is all."""
    expand_own: Tensor | None = None
    """First layer: from view rows to pair rows (or to the read ones among them)."""
    expand_other: Tensor | None = None
    """First layer: from view rows to pair rows of the other stream."""
    self_keys: Tensor | None = None
    """Of the rows behind self-attention: what dropout draws from."""
    cross_keys: Tensor | None = None
    """The same of the rows behind cross-attention."""


class CrossAttention(nn.Module):
    """Queries from the own stream, keys and values from the other."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x_NC: Tensor, other_MC: Tensor, plan: StreamPlan, attended: Attended | None = None) -> Tensor:
        """Return (pair rows, C)."""
        attention = plan.attention
        q = self.q(x_NC)
        if plan.expand_own is not None:
            q = gather_rows(q, plan.expand_own)
        if plan.expand_other is None:
            kv = self.kv(other_MC[attention.other])
        else:
            kv = gather_rows(self.kv(other_MC), plan.expand_other[attention.other])
        q_NHD, kv_M2HD = q.unflatten(-1, (self.heads, -1)), kv.unflatten(-1, (2, self.heads, -1))
        if attended is not None:
            attended(q_NHD, kv_M2HD[:, 0])
        dropout = self.dropout if self.training else 0.0
        return self.out(attend_kv(q_NHD, kv_M2HD, attention.cross_attention, dropout).flatten(1))


class FusionLayer(nn.Module):
    """Self-attention, cross-attention, feed-forward; each post-norm."""

    parameter_group: ClassVar[ParameterGroup] = "fusion"

    def __init__(self, config: FusionConfig, stream: Stream, number: int):
        super().__init__()
        width, eps, dropout = config.width, config.layer_norm_eps, config.dropout
        site = _FIRST_SITE[stream] + 3 * number
        self.self_attention = SelfAttention(width, config.heads, config.dropout_of_attention)
        self.self_norm = PostNorm(width, eps, dropout, site)
        self.cross_attention = CrossAttention(width, config.heads, config.dropout_of_attention)
        self.cross_norm = PostNorm(width, eps, dropout, site + 1)
        self.mlp = MLP(width, config.mlp_ratio * width, "gelu")
        self.mlp_norm = PostNorm(width, eps, dropout, site + 2)

    def forward(self, x_NC: Tensor, other_MC: Tensor, plan: StreamPlan, attended: Attended | None = None) -> Tensor:
        """Return the rows that `plan` asks for, (rows, C)."""
        x = x_NC[plan.attention.own]
        residual = x if plan.query_rows is None else x[plan.query_rows]
        mixed = self.self_attention(x, plan.attention.self_attention, plan.query_rows)
        x = self.self_norm(mixed, residual, plan.self_keys)
        crossed = self.cross_attention(x, other_MC, plan, attended)
        residual = x if plan.expand_own is None else gather_rows(x, plan.expand_own)
        x = self.cross_norm(crossed, residual, plan.cross_keys)
        return self.mlp_norm(self.mlp(x), x, plan.cross_keys)

    @staticmethod
    def flops(config: FusionConfig, own: int, other: int, rows: int) -> int:
        """Return the forward FLOPs of one layer of one stream.

        Args:
            config: Sizes.
            own: Tokens of the own stream, keys and values of self-attention.
            other: Tokens of the other stream.
            rows: Tokens of the own stream whose output is read; nothing is computed for none.
        """
        if not rows:
            return 0
        d = config.width
        crossed = flops.linear(rows, d, 2 * d) + flops.linear(other, d, 2 * d) + flops.attention(rows, other, d)
        return FusionLayer.self_attention_flops(d, own, rows) + crossed + flops.mlp(rows, d, config.mlp_ratio * d)

    @staticmethod
    def self_attention_flops(width: int, own: int, rows: int) -> int:
        """Return the FLOPs of self-attention over `own` tokens of which `rows` are queries."""
        maps = flops.linear(rows, width, 2 * width) + flops.linear(own, width, 2 * width)
        return maps + flops.attention(rows, own, width)

    @staticmethod
    def first_layer_flops(width: int, tokens: int) -> int:
        """Return what the first layer spends once per view: self-attention, and the maps of cross-attention."""
        return FusionLayer.self_attention_flops(width, tokens, tokens) + flops.linear(tokens, width, 3 * width)


def stream_plans(batch: Batch, layer: int, layers: int) -> tuple[StreamPlan, StreamPlan]:
    """Return what a layer does in the text and in the vision stream."""
    pairs, reads, keys = batch.pairs, batch.reads, batch.dropout_keys
    streams = (
        (pairs.text_rows, pairs.vision_rows, reads.text_rows, keys.text, keys.text_pairs),
        (pairs.vision_rows, pairs.text_rows, reads.vision_rows, keys.vision, keys.vision_pairs),
    )
    text, vision = (_stream_plan(batch, layer, layers, stream, *rows) for stream, rows in enumerate(streams))
    return text, vision


def _stream_plan(
    batch: Batch,
    layer: int,
    layers: int,
    stream: int,
    own: Tensor,
    other: Tensor,
    read: Tensor,
    view_keys: Tensor,
    pair_keys: Tensor,
) -> StreamPlan:
    """Return what a layer of one stream (0 text, 1 vision) does.

    `own` and `other` lead from view rows to pair rows, `read` are the pair rows that are read, and the keys are those
    of view rows and of pair rows.
    """
    attention = batch.pairs.attention
    if layer == layers - 1:
        last = attention.last[stream]
        if layers == 1:
            return StreamPlan(
                last, expand_own=own[read], expand_other=other, self_keys=view_keys, cross_keys=pair_keys[read]
            )
        keys = pair_keys[read]
        return StreamPlan(last, query_rows=read - last.own.start, self_keys=keys, cross_keys=keys)
    if layer == 0:
        assert attention.first is not None
        return StreamPlan(
            attention.first[stream], expand_own=own, expand_other=other, self_keys=view_keys, cross_keys=pair_keys
        )
    assert attention.middle is not None
    return StreamPlan(attention.middle[stream], self_keys=pair_keys, cross_keys=pair_keys)


def fuse(
    text_layers: nn.ModuleList,
    vision_layers: nn.ModuleList,
    views: tuple[Tensor, Tensor],
    batch: Batch,
    recompute: bool,
    attended: Attended | None = None,
) -> tuple[Tensor, Tensor]:
    """Run both streams over all pairs.

    Args:
        text_layers: `FusionLayer`s of the text stream.
        vision_layers: As many of the vision stream.
        views: (Nt, C) rows of the text views and (Nv, C) rows of the vision views, token type added.
        batch: Rows and attention of the pairs, and what is read.
        recompute: Checkpoint activations.
        attended: Is told what the last layer's text → vision cross-attention compares: queries of the read text rows,
            keys of all rows of the vision pairs. Not while activations are recomputed.

    Returns:
        The read rows of both streams: (rows of `batch.reads.text_rows`, C) and (of `vision_rows`, C).
    """
    text, vision = views
    for number, (text_layer, vision_layer) in enumerate(zip(text_layers, vision_layers, strict=True)):
        text_plan, vision_plan = stream_plans(batch, number, len(text_layers))
        told = (attended,) if attended is not None and number == len(text_layers) - 1 else ()
        text, vision = (
            recomputed(text_layer, recompute, text, vision, text_plan, *told),
            recomputed(vision_layer, recompute, vision, text, vision_plan),
        )
    return text, vision
