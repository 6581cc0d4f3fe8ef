"""What stands between encoders, fusion and losses: transforms, token types, poolers, heads, projections.

docs/method.md §2 describes them. Each brings its parameter group, its FLOPs and, where they are its own, its initial
values.
"""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scl_kernels import gather_rows
from sclds.model import flops
from sclds.model.groups import ParameterGroup
from sclds.model.initial import Draw
from sclds.model.layers import LayerNorm

ITM_CLASSES = 2
"""Logits of image-text matching: does not match, matches."""


class Transform(nn.Linear):
    """The linear map from an encoder to fusion."""

    parameter_group: ClassVar[ParameterGroup] = "fusion"

    @staticmethod
    def flops(rows: int, width: int, out: int) -> int:
        """Return the forward FLOPs of `rows` rows."""
        return flops.linear(rows, width, out)


class TokenType(nn.Embedding):
    """Adds the embedding of a modality: row 0 text, row 1 vision."""

    parameter_group: ClassVar[ParameterGroup] = "fusion"

    def forward(self, text: Tensor, vision: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Return both streams, (N, C) each, with their type added."""
        return text + self.weight[0], vision + self.weight[1]


class Pooler(nn.Linear):
    """Linear and tanh."""

    parameter_group: ClassVar[ParameterGroup] = "fusion"

    def forward(self, x_NC: Tensor) -> Tensor:
        """Return (N, C)."""
        return super().forward(x_NC).tanh()

    @staticmethod
    def flops(rows: int, width: int) -> int:
        """Return the forward FLOPs of `rows` rows."""
        return flops.linear(rows, width, width)


class ITMHead(nn.Linear):
    """Logits of the pooled [CLS] of both streams."""

    parameter_group: ClassVar[ParameterGroup] = "heads"

    def __init__(self, width: int):
        super().__init__(2 * width, ITM_CLASSES)

    @staticmethod
    def flops(rows: int, width: int) -> int:
        """Return the forward FLOPs of `rows` pairs."""
        return flops.linear(rows, 2 * width, ITM_CLASSES)


class MLMHead(nn.Module):
    """Linear, GELU, LayerNorm, and a decoder that is not tied to the word embedding."""

    parameter_group: ClassVar[ParameterGroup] = "heads"

    def __init__(self, width: int, vocab_size: int, eps: float):
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.norm = LayerNorm(width, eps=eps)
        self.decoder = nn.Linear(width, vocab_size)

    def forward(self, x_NC: Tensor) -> Tensor:
        """Return (N, vocabulary) logits."""
        return self.decoder(self.norm(F.gelu(self.dense(x_NC))))

    @staticmethod
    def flops(rows: int, width: int, vocab_size: int) -> int:
        """Return the forward FLOPs of `rows` words."""
        return flops.linear(rows, width, width) + flops.linear(rows, width, vocab_size)


class Projection(nn.Module):
    """Contrastive projection, taken before fusion."""

    parameter_group: ClassVar[ParameterGroup] = "encoders"

    def __init__(self, width: int, out: int, eps: float):
        super().__init__()
        self.width = width
        self.dense = nn.Linear(width, width)
        self.norm = LayerNorm(width, eps=eps)
        self.out = nn.Linear(width, out)

    def forward(self, x_NC: Tensor) -> Tensor:
        """Return (N, out), not normalized."""
        return self.out(F.gelu(self.norm(self.dense(x_NC))))

    def initial_value(self, name: str, shape: torch.Size, draw: Draw) -> Tensor:
        """Return the framework's default, uniform within ±1/√inputs for weights and biases of both maps."""
        return draw.uniform(shape, self.width**-0.5)

    @staticmethod
    def flops(rows: int, width: int, out: int) -> int:
        """Return the forward FLOPs of `rows` rows."""
        return flops.linear(rows, width, width) + flops.linear(rows, width, out)


class Temperature(nn.Module):
    """The learnable temperature, behind a forward so that ZeRO-3 can gather it.

    Below `minimum` the parameter counts as far above it as it lies below: a step of the optimizer that went past the
    bound is turned back by its own gradient. Cut off there, it would get no gradient and stay for good.
    """

    parameter_group: ClassVar[ParameterGroup] = "encoders"

    def __init__(self, initial: float, minimum: float):
        super().__init__()
        self.initial, self.minimum = initial, minimum
        self.value = nn.Parameter(torch.empty(1))

    def forward(self) -> Tensor:
        """Return () in fp32."""
        value = self.value[0].float()
        return torch.where(value < self.minimum, 2 * self.minimum - value, value)

    def initial_value(self, name: str, shape: torch.Size, draw: Draw) -> Tensor:
        """Return `model.initial_temperature`."""
        return torch.full(shape, self.initial)


class PairwiseLogit(nn.Module):
    """Scale and bias of SigLIP's pairwise loss (arXiv 2303.15343, §3), which start at 10 and -10."""

    parameter_group: ClassVar[ParameterGroup] = "encoders"

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.empty(1))
        self.bias = nn.Parameter(torch.empty(1))

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return the scale () and the bias () in fp32."""
        return self.log_scale[0].float().exp(), self.bias[0].float()

    def initial_value(self, name: str, shape: torch.Size, draw: Draw) -> Tensor:
        """Return log 10, or -10."""
        return torch.full(shape, -10.0 if name == "bias" else math.log(10.0))


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
