"""Text towers by `model.text.type` over packed texts (docs/method.md §2).

RoBERTa and XLM-RoBERTa have the same layers; they differ in vocabulary and tokenizer, which are settings. A tower of
other layers is a class beside `TextEncoder` and a row of `TEXT_TOWERS`. Shape suffixes: N packed tokens, C channels.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor, nn

from scl_kernels import masked_gather
from scl_kernels.dropout_norm.draws import counter_dropout
from sclds.batch import TextViews
from sclds.batch.attention_plan import AttentionPlan
from sclds.config import TextConfig
from sclds.model import flops
from sclds.model.groups import ParameterGroup
from sclds.model.initial import Draw, default_value, norm_value
from sclds.model.layers import MLP, PostNorm, SelfAttention
from sclds.model.recompute import recomputed

EMBEDDING_SITE = 0
"""Where the embedding's dropout draws; the layers' sites follow it, and stay below those of fusion."""


class TextEmbedding(nn.Module):
    """Word, position and type embeddings, summed and normalized."""

    def __init__(self, config: TextConfig, vocab_size: int):
        super().__init__()
        self.eps = config.layer_norm_eps
        self.dropout = config.dropout
        self.word_embedding = nn.Parameter(torch.empty(vocab_size, config.width))
        self.position_embedding = nn.Parameter(torch.empty(config.max_positions, config.width))
        self.type_embedding = nn.Parameter(torch.empty(1, config.width))
        self.norm_weight = nn.Parameter(torch.empty(config.width))
        self.norm_bias = nn.Parameter(torch.empty(config.width))

    def forward(self, ids: Tensor, positions: Tensor, keys_N: Tensor | None = None) -> Tensor:
        """Embed (N,) ids at (N,) positions into (N, C); `keys_N` is what training with dropout draws from."""
        x = masked_gather(
            self.word_embedding,
            self.position_embedding,
            self.type_embedding,
            None,
            None,
            self.norm_weight,
            self.norm_bias,
            ids,
            positions,
            torch.zeros_like(ids),
            self.eps,
        )
        return counter_dropout(x, keys_N, EMBEDDING_SITE, self.dropout if self.training else 0.0)

    def initial_value(self, name: str, shape: torch.Size, draw: Draw) -> Tensor:
        """Return normal tables and the norm's 1 and 0."""
        return norm_value(name, shape) if name.startswith("norm_") else default_value(name, shape, draw)


class TextLayer(nn.Module):
    """Post-norm transformer layer."""

    def __init__(self, config: TextConfig, number: int):
        super().__init__()
        width, eps, dropout = config.width, config.layer_norm_eps, config.dropout
        site = EMBEDDING_SITE + 1 + 2 * number
        self.attention = SelfAttention(width, config.heads, config.dropout_of_attention)
        self.attention_norm = PostNorm(width, eps, dropout, site)
        self.mlp = MLP(width, 4 * width, "gelu")
        self.mlp_norm = PostNorm(width, eps, dropout, site + 1)

    def forward(self, x_NC: Tensor, plan: AttentionPlan, keys_N: Tensor | None) -> Tensor:
        """Return (N, C)."""
        x = self.attention_norm(self.attention(x_NC, plan), x_NC, keys_N)
        return self.mlp_norm(self.mlp(x), x, keys_N)


class TextEncoder(nn.Module):
    """All text views of a micro-batch in one call."""

    parameter_group: ClassVar[ParameterGroup] = "encoders"

    def __init__(self, config: TextConfig, vocab_size: int, recompute: bool):
        super().__init__()
        self.recompute = recompute
        self.embedding = TextEmbedding(config, vocab_size)
        self.layers = nn.ModuleList(TextLayer(config, number) for number in range(config.layers))

    def forward(self, views: TextViews, keys_N: Tensor | None = None) -> Tensor:
        """Return (N, C) in the packed order of `views.ids`; `keys_N` is what training with dropout draws from."""
        x = self.embedding(views.ids, views.positions, keys_N)
        for layer in self.layers:
            x = recomputed(layer, self.recompute and self.training, x, views.attention, keys_N)
        return x

    @staticmethod
    def flops(config: TextConfig, tokens: int) -> int:
        """Return the forward FLOPs of one view of `tokens` tokens."""
        width = config.width
        maps = flops.linear(tokens, width, 4 * width) + flops.mlp(tokens, width, 4 * width)
        return config.layers * (maps + flops.attention(tokens, tokens, width))


TEXT_TOWERS: Mapping[str, type[TextEncoder]] = MappingProxyType({"roberta": TextEncoder, "xlm_roberta": TextEncoder})
"""By `model.text.type`."""


def build_text_tower(config: TextConfig, vocab_size: int, recompute: bool) -> TextEncoder:
    """Return the tower of a configuration; `vocab_size` rows of its word embedding, `recompute` for checkpointing."""
    return TEXT_TOWERS[config.type](config, vocab_size, recompute)
