"""Losses of other packages beside ours, where they and a GPU are there; both refuse tensors of the CPU.

`inf_cl` (github.com/DAMO-NLP-SG/Inf-CLIP, arXiv 2410.17243): `cal_flash_loss(q, k, labels=None, scale=None)`, the
cross-entropy of every row of normalized q among all rows of k. `siglip_kernel` (PyPI siglip-kernel 0.1.2):
`fused_siglip_loss(image, text, log_temperature, bias)` of normalized rows, the mean over the rows of the image.
"""

import importlib
import importlib.util
from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from harness import device
from torch import Tensor

from scl_kernels.pairwise.reference import MINIMUM_NORM


def _normalized(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    return F.normalize(a, dim=1, eps=MINIMUM_NORM), F.normalize(b, dim=1, eps=MINIMUM_NORM)


def inf_cl_loss(a: Tensor, b: Tensor, temperature: Tensor) -> Tensor:
    """Return the sum of both directions' means."""
    flash = importlib.import_module("inf_cl").cal_flash_loss
    a, b = _normalized(a, b)
    scale = 1 / temperature
    return flash(a, b, scale=scale).mean() + flash(b, a, scale=scale).mean()


def siglip_kernel_loss(a: Tensor, b: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Return the mean over rows of the pairwise loss."""
    return importlib.import_module("siglip_kernel").fused_siglip_loss(*_normalized(a, b), scale.log(), bias)


_LOSSES: dict[str, Callable[..., Tensor]] = {"inf_cl": inf_cl_loss, "siglip_kernel": siglip_kernel_loss}


def others(package: str, *inputs: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Return the package's loss as a provider of its name; nothing where it or a GPU is missing."""
    if device() != "cuda" or importlib.util.find_spec(package) is None:
        return {}
    return {package: partial(_LOSSES[package], *inputs)}
