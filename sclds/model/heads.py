"""Poolers, heads, token types and projections (docs/method.md §2)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scl_kernels import gather_rows
from sclds.model.layers import LayerNorm


class TokenType(nn.Embedding):
    """Adds the embedding of a modality: row 0 text, row 1 vision."""

    def forward(self, text: Tensor, vision: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Return both streams, (N, C) each, with their type added."""
        return text + self.weight[0], vision + self.weight[1]


class Pooler(nn.Linear):
    """Linear and tanh."""

    def forward(self, x_NC: Tensor) -> Tensor:
        """Return (N, C)."""
        return super().forward(x_NC).tanh()


class MLMHead(nn.Module):
    """Linear, GELU, LayerNorm, and a decoder that is not tied to the word embedding."""

    def __init__(self, width: int, vocab_size: int, eps: float):
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.norm = LayerNorm(width, eps=eps)
        self.decoder = nn.Linear(width, vocab_size)

    def forward(self, x_NC: Tensor) -> Tensor:
        """Return (N, vocabulary) logits."""
        return self.decoder(self.norm(F.gelu(self.dense(x_NC))))


class Projection(nn.Module):
    """Contrastive projection, taken before fusion."""

    def __init__(self, width: int, out: int, eps: float):
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.norm = LayerNorm(width, eps=eps)
        self.out = nn.Linear(width, out)

    def forward(self, x_NC: Tensor) -> Tensor:
        """Return (N, out), not normalised."""
        return self.out(F.gelu(self.norm(self.dense(x_NC))))


class Temperature(nn.Module):
    """The learnable temperature, behind a forward so that ZeRO-3 can gather it."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.empty(1))

    def forward(self) -> Tensor:
        """Return () in fp32."""
        return self.value[0].float()


def frame_mean(x_NC: Tensor, rows: Tensor) -> Tensor:
    """Average a sample's frame [CLS] rows.

    Args:
        x_NC: Packed rows.
        rows: (B, F) row numbers, -1 where a sample has fewer frames.

    Returns:
        (B, C).
    """
    real = rows >= 0
    picked = gather_rows(x_NC, rows.clamp(min=0).flatten()).unflatten(0, rows.shape)
    weights = (real / real.sum(dim=1, keepdim=True)).to(x_NC.dtype)
    return (picked * weights[..., None]).sum(dim=1)
