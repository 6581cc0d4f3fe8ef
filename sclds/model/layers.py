"""Building blocks that both encoders and fusion share. Shape suffixes: N rows, C channels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scl_kernels import dropout_add_norm, linear_activation
from scl_kernels.bias_activation.reference import ACTIVATIONS
from scl_kernels.dropout_norm.draws import counter_dropout
from scl_kernels.norms import chosen_norms, layer_norm
from sclds.batch.attention_plan import AttentionPlan
from sclds.model.attention import attend_kv, attend_qkv
from sclds.model.initial import Draw, norm_value


class LayerNorm(nn.LayerNorm):
    """LayerNorm by whichever implementation `engine.norms` names."""

    def forward(self, x_NC: Tensor) -> Tensor:
        """Return (N, C)."""
        return layer_norm(x_NC, self.weight, self.bias, self.eps)

    def initial_value(self, name: str, shape: torch.Size, draw: Draw) -> Tensor:
        """Return weight 1 and bias 0."""
        return norm_value(name, shape)


class SumNorm(LayerNorm):
    """LayerNorm of a sub-layer's output added to the residual stream, dropout before the addition."""

    def __init__(self, width: int, eps: float, dropout: float = 0.0, site: int = 0):
        super().__init__(width, eps=eps)
        self.dropout, self.site = dropout, site

    def forward(  # type: ignore[override]
        self, branch_NC: Tensor, residual_NC: Tensor, keys_N: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the normalized sum and the sum, (N, C) each; `keys_N` is what training with dropout draws from."""
        dropout = self.dropout if self.training else 0.0
        if chosen_norms() != "torch":
            total_NC = counter_dropout(branch_NC, keys_N, self.site, dropout) + residual_NC
            return layer_norm(total_NC, self.weight, self.bias, self.eps), total_NC
        return dropout_add_norm(branch_NC, residual_NC, self.weight, self.bias, keys_N, self.site, dropout, self.eps)


class ActivatedLinear(nn.Linear):
    """A linear map, with an activation behind it where one is asked for."""

    def forward(self, x_NC: Tensor, activation: str | None = None) -> Tensor:
        """Return (N, outputs); `activation` is one of `ACTIVATIONS`."""
        if activation is None:
            return F.linear(x_NC, self.weight, self.bias)
        return linear_activation(x_NC, self.weight, self.bias, activation)


class QKVLinear(nn.Linear):
    """Queries, keys and values of self-attention in one matrix; queries only for chosen rows where that is enough."""

    def __init__(self, width: int):
        super().__init__(width, 3 * width)
        self.width = width

    def forward(self, x_NC: Tensor, query_rows: Tensor | None = None) -> tuple[Tensor | None, Tensor]:  # type: ignore[override]
        """Return None and qkv (N, 3·C); with `query_rows`, q (rows, C) of these alone and kv (N, 2·C).

        They stay in one tensor, so that a kernel which takes them so gives their gradient in one, without a copy.
        """
        if query_rows is None:
            return None, F.linear(x_NC, self.weight, self.bias)
        w, b = self.weight, self.bias
        q = F.linear(x_NC[query_rows], w[: self.width], b[: self.width])
        return q, F.linear(x_NC, w[self.width :], b[self.width :])


class SelfAttention(nn.Module):
    """Multi-head self-attention over packed rows."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0):
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.qkv = QKVLinear(width)
        self.out = nn.Linear(width, width)

    def forward(self, x_NC: Tensor, plan: AttentionPlan, query_rows: Tensor | None = None) -> Tensor:
        """Return (N, C), or one row per query row."""
        dropout = self.dropout if self.training else 0.0
        q, packed = self.qkv(x_NC, query_rows)
        if q is None:
            mixed = attend_qkv(packed.unflatten(-1, (3, self.heads, -1)), plan, dropout)
        else:
            q_NHD, kv_M2HD = q.unflatten(-1, (self.heads, -1)), packed.unflatten(-1, (2, self.heads, -1))
            mixed = attend_kv(q_NHD, kv_M2HD, plan, dropout)
        return self.out(mixed.flatten(1))


class MLP(nn.Module):
    """Two linear maps with an activation between them."""

    def __init__(self, width: int, inner: int, activation: str):
        super().__init__()
        self.up = ActivatedLinear(width, inner)
        self.down = nn.Linear(inner, width)
        self.kind, self.activation = activation, ACTIVATIONS[activation]

    def forward(self, x_NC: Tensor) -> Tensor:
        """Return (N, C)."""
        return self.down(self.up(x_NC, self.kind))


class PostNorm(nn.Module):
    """`LayerNorm(dropout(branch) + residual)`, the sub-layer end of RoBERTa and of fusion (docs/method.md §2)."""

    def __init__(self, width: int, eps: float, dropout: float, site: int):
        super().__init__()
        self.norm = SumNorm(width, eps, dropout, site)
        self.dropout = dropout

    def forward(self, branch_NC: Tensor, residual_NC: Tensor, keys_N: Tensor | None) -> Tensor:
        """Return (N, C)."""
        normalized_NC, _ = self.norm(branch_NC, residual_NC, keys_N)
        return normalized_NC


def rotate(x_NHD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn neighboring pairs of channels by an angle (rotary positions, arXiv 2104.09864).

    Args:
        x_NHD: Queries or keys.
        cos: (N, D/2) cosine of each pair's angle, fp32.
        sin: (N, D/2) its sine.

    Returns:
        (N, H, D) in the dtype of `x_NHD`; computed in fp32 or more.
    """
    even, odd = x_NHD.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2).to(x_NHD.dtype)
