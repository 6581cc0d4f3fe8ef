"""LayerNorm behind one choice: PyTorch's, or a fused one of NVIDIA Apex or Liger Kernel where that is installed."""

import importlib
from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from scl_kernels.optional import library
from scl_kernels.validation import check_tensor

Norms = Literal["torch", "apex", "liger"]
"""`torch`, or the library whose fused LayerNorm runs; both of them need a GPU."""
_LIBRARIES = {"apex": "NVIDIA Apex", "liger": "Liger Kernel"}

_process_wide: Norms = "torch"


def norms_problem(name: Norms) -> str | None:
    """Return, as a sentence, why this choice cannot run here; None where it can."""
    if name == "torch":
        return None
    found = library(_LIBRARIES[name])
    if not found.present:
        return f"norms={name} needs {found.name}, which is missing ({found.why}); {found.remedy}, or use norms=torch"
    if not torch.cuda.is_available():
        return f"norms={name} needs a CUDA device, and there is none; use norms=torch"
    return None


def set_norms(name: Norms) -> None:
    """Choose whose LayerNorm this process runs.

    Raises:
        ValueError: `name` is none of `torch`, `apex`, `liger`, or cannot run here.
    """
    global _process_wide
    if name not in get_args(Norms):
        raise ValueError(f"norms is {name!r}; choose one of {', '.join(get_args(Norms))}")
    problem = norms_problem(name)
    if problem:
        raise ValueError(problem)
    _process_wide = cast(Norms, name)


def chosen_norms() -> Norms:
    """Return whose LayerNorm this process runs, `torch` until `set_norms` changed it."""
    return _process_wide


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Normalise the last dimension with the chosen implementation.

    Args:
        x: (..., D).
        weight: (D,).
        bias: (D,).
        eps: Added to the variance.

    Returns:
        (..., D) in `x`' dtype.

    Raises:
        ValueError: `weight` or `bias` has another shape or lies on another device.
    """
    if _process_wide == "torch":
        return F.layer_norm(x, weight.shape, weight, bias, eps)
    for name, vector in (("weight", weight), ("bias", bias)):
        check_tensor(name, vector, shape=x.shape[-1:], device=x.device)
    if _process_wide == "apex":
        fused = importlib.import_module("apex.normalization.fused_layer_norm")
        return fused.fused_layer_norm_affine(x, weight, bias, tuple(weight.shape), eps)
    return importlib.import_module("liger_kernel.ops.layer_norm").LigerLayerNormFunction.apply(x, weight, bias, eps)
