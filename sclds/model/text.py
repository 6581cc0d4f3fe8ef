"""RoBERTa over packed texts (docs/method.md §2). Shape suffixes: N packed tokens, C channels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scl_kernels import masked_gather
from sclds.batch import TextViews
from sclds.batch.attention_plan import AttentionPlan
from sclds.config import TextConfig
from sclds.model.layers import MLP, PostNorm, SelfAttention
from sclds.model.recompute import recomputed


class TextEmbedding(nn.Module):
    """Word, position and type embeddings, summed and normalised."""

    def __init__(self, config: TextConfig, vocab_size: int):
        super().__init__()
        self.eps = config.layer_norm_eps
        self.dropout = config.dropout
        self.word_embedding = nn.Parameter(torch.empty(vocab_size, config.width))
        self.position_embedding = nn.Parameter(torch.empty(config.max_positions, config.width))
        self.type_embedding = nn.Parameter(torch.empty(1, config.width))
        self.norm_weight = nn.Parameter(torch.empty(config.width))
        self.norm_bias = nn.Parameter(torch.empty(config.width))

    def forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Embed (N,) ids at (N,) positions into (N, C)."""
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
        return F.dropout(x, self.dropout, self.training)


class TextLayer(nn.Module):
    """Post-norm transformer layer."""

    def __init__(self, config: TextConfig):
        super().__init__()
        width, eps, dropout = config.width, config.layer_norm_eps, config.dropout
        self.attention = SelfAttention(width, config.heads, dropout)
        self.attention_norm = PostNorm(width, eps, dropout)
        self.mlp = MLP(width, 4 * width, "gelu")
        self.mlp_norm = PostNorm(width, eps, dropout)

    def forward(self, x_NC: Tensor, plan: AttentionPlan) -> Tensor:
        """Return (N, C)."""
        x = self.attention_norm(self.attention(x_NC, plan), x_NC)
        return self.mlp_norm(self.mlp(x), x)


class TextEncoder(nn.Module):
    """All text views of a micro-batch in one call."""

    def __init__(self, config: TextConfig, vocab_size: int, recompute: bool):
        super().__init__()
        self.recompute = recompute
        self.embedding = TextEmbedding(config, vocab_size)
        self.layers = nn.ModuleList(TextLayer(config) for _ in range(config.layers))

    def forward(self, views: TextViews) -> Tensor:
        """Return (N, C) in the packed order of `views.ids`."""
        x = self.embedding(views.ids, views.positions)
        for layer in self.layers:
            x = recomputed(layer, self.recompute and self.training, x, views.attention)
        return x
