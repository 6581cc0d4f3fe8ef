"""The reference of `bias_activation`: its definition and what its tests compare with."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor


def quick_gelu(x: Tensor) -> Tensor:
    """CLIP's activation, `x · sigmoid(1.702 x)`."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": quick_gelu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
}
"""By name."""


def bias_activation_reference(x: Tensor, bias: Tensor, activation: str) -> Tensor:
    """Compute `bias_activation` (see there for shapes) with PyTorch operations."""
    return ACTIVATIONS[activation](x + bias)
