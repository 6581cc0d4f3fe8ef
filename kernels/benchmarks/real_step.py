"""One real training step, forward and backward, with all kernels, without each of them, and without any."""

import statistics
import time
from functools import partial
from typing import Any, NamedTuple

import torch
from packed_step import build_model, on_backend, totals
from replaced import uses, without
from torch import Tensor

from scl_kernels.backend import Backend, interpreting
from scl_kernels.registry import operations

TOLERANCE = 1e-3
"""Largest relative difference of loss and gradient from the step of the references, in fp32."""


class StepResult(NamedTuple):
    """One way to take the step, against the references."""

    without: str
    """The kernel that its reference replaces; `none` or `all`."""
    loss: float
    loss_error: float
    """Relative."""
    gradient_error: float
    """Norm of the difference of all gradients, relative to the gradient's norm."""
    milliseconds: float
    """Median of forward and backward."""

    @property
    def passed(self) -> bool:
        """Whether the step is that of the references; never for NaN."""
        return self.loss_error <= TOLERANCE and self.gradient_error <= TOLERANCE


def compare(sizes: dict[str, Any], device: str, repeats: int) -> list[StepResult]:
    """Take the step in fp32 in every way and compare losses and gradients; `repeats` steps of each are timed.

    Args:
        sizes: As `sclds.benchmarks.step.MID_SIZE`.
        device: `cuda`; `cpu` under Triton's interpreter, or to rehearse with the references alone.
        repeats: Timed steps.
    """
    model = build_model(sizes).to(device).train()
    total = totals(sizes, device)["packed"]
    called = {operation.name: operation for operation in operations() if uses(operation)}
    kernels: Backend = "triton" if device == "cuda" or interpreting() else "auto"
    ways: dict[str, Backend] = {"all": "torch", "none": kernels, **dict.fromkeys(called, kernels)}
    results, expected = [], None
    for name, backend in ways.items():
        with without(called.get(name)):
            loss, gradient, times = _step(partial(on_backend, backend, total, model), model, repeats)
        expected = expected or (loss, gradient)
        loss_error = abs(loss - expected[0]) / abs(expected[0])
        gradient_error = float((gradient - expected[1]).norm() / expected[1].norm())
        results.append(StepResult(name, loss, loss_error, gradient_error, statistics.median(times)))
    return results


def _step(loss_of: Any, model: torch.nn.Module, repeats: int) -> tuple[float, Tensor, list[float]]:
    """Return the loss, all gradients in one fp64 vector, and milliseconds of the steps after the first."""
    times = []
    for _ in range(1 + repeats):
        model.zero_grad(set_to_none=True)
        _wait()
        start = time.perf_counter()
        loss = loss_of()
        loss.backward()
        _wait()
        times.append(1e3 * (time.perf_counter() - start))
    gradients = [p.grad.double().flatten() for p in model.parameters() if p.grad is not None]
    return float(loss.detach()), torch.cat(gradients), times[1:] or times


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
