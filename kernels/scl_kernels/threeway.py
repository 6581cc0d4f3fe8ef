"""Three-way comparisons: an operation, plain PyTorch in the same dtype, and the reference in fp64 on the same inputs.

A kernel passes where its largest error is at most twice that of plain PyTorch plus a few roundings. The test run uses
these under Triton's interpreter, `gpu_check.py` on the device.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Comparison(NamedTuple):
    """Largest absolute errors of one output or gradient against fp64."""

    name: str
    error: float
    plain_error: float
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether the kernel's error is allowed; never for NaN."""
        return self.error <= self.allowed


def compare(name: str, got: Tensor, plain: Tensor, exact: Tensor, noise: float = 1e-7) -> Comparison:
    """Hold one result against plain PyTorch's error; shapes as they come; `noise` is allowed on top."""
    if got.shape != exact.shape:
        return Comparison(f"{name} (shape {tuple(got.shape)}, expected {tuple(exact.shape)})", float("nan"), 0.0, 0.0)
    if exact.numel() == 0:
        return Comparison(name, 0.0, 0.0, 0.0)
    error = (got.double() - exact).abs().max().item()
    plain_error = (plain.double() - exact).abs().max().item()
    scale = exact.abs().max().item()
    return Comparison(name, error, plain_error, 2 * plain_error + 8 * torch.finfo(got.dtype).eps * scale + noise)


def results(
    function: Callable[..., Tensor], inputs: Sequence[Tensor | None], dtype: torch.dtype, d_out: Tensor
) -> list[Tensor]:
    """Return function's output and its gradients with respect to all inputs, computed in dtype."""
    leaves = [None if x is None else x.detach().to(dtype).requires_grad_() for x in inputs]
    out = function(*leaves)
    return [out, *torch.autograd.grad(out, [x for x in leaves if x is not None], d_out.to(dtype))]
