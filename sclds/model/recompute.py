"""Activation checkpointing in one place."""

from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def recomputed(layer: nn.Module, on: bool, *inputs: Any) -> Any:
    """Run a layer, and with `on` keep only its inputs and run it again in backward.

    The reentrant form is meant: under ZeRO-3 parameters are released between the two runs, and the other form compares
    the shapes of what it saved, which a released parameter no longer has.
    """
    if not on or not any(isinstance(i, Tensor) and i.requires_grad for i in inputs):
        return layer(*inputs)
    return checkpoint(layer, *inputs, use_reentrant=True)
