"""LayerNorm behind one choice: PyTorch's, or NVIDIA Apex's fused one where that is installed."""

import importlib
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from scl_kernels.optional import optional_libraries

LayerNormImplementation = Literal["torch", "apex"]


def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, implementation: LayerNormImplementation = "torch"
) -> Tensor:
    """Normalise the last dimension.

    Args:
        x: (..., D).
        weight: (D,).
        bias: (D,).
        eps: Added to the variance.
        implementation: `torch` or `apex`.

    Returns:
        (..., D) in `x`' dtype.

    Raises:
        ValueError: The implementation is unknown.
        RuntimeError: Apex was chosen and NVIDIA's is not installed.
    """
    if implementation == "torch":
        return F.layer_norm(x, weight.shape, weight, bias, eps)
    if implementation != "apex":
        raise ValueError(f"implementation is {implementation!r}; choose torch or apex")
    apex = optional_libraries()[0]
    if not apex.present:
        raise RuntimeError(f"LayerNorm of apex was chosen, but NVIDIA Apex is missing ({apex.why}); {apex.remedy}")
    fused = importlib.import_module("apex.normalization.fused_layer_norm")
    return fused.fused_layer_norm_affine(x, weight, bias, tuple(weight.shape), eps)
