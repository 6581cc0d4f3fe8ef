"""The one switch between the Triton kernels and their PyTorch references."""

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Literal, cast, get_args

import torch
from torch import Tensor

Backend = Literal["auto", "triton", "torch"]
"""`auto`: Triton for CUDA tensors of a size at which it pays off, else PyTorch; `triton`, `torch`: that one, always."""

SIZES = Path(__file__).with_name("crossover.json")
"""Smallest size per operation at which `auto` takes the kernel; written by `scl_kernels.crossover`."""

_process_wide: Backend = "auto"


def _validated(name: str) -> Backend:
    if name not in get_args(Backend):
        raise ValueError(f"backend is {name!r}; choose one of {', '.join(get_args(Backend))}")
    return cast(Backend, name)


def set_backend(name: Backend) -> None:
    """Choose what every operation of this process uses that does not say otherwise in its own call.

    Raises:
        ValueError: `name` is none of `auto`, `triton`, `torch`.
    """
    global _process_wide
    _process_wide = _validated(name)


def get_backend() -> Backend:
    """Return the process-wide choice, `auto` until `set_backend` changed it."""
    return _process_wide


def chosen(backend: Backend) -> Backend:
    """Return a call's choice; its `auto` hands over to the process-wide one."""
    choice = _validated(backend)
    return _process_wide if choice == "auto" else choice


def interpreting() -> bool:
    """Whether Triton's interpreter was asked for, which runs kernels slowly on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def reachable(tensor: Tensor) -> bool:
    """Whether the kernels can compute on a tensor: it lies on a GPU and is not fp64."""
    return tensor.device.type == "cuda" and tensor.dtype != torch.float64


@lru_cache(maxsize=1)
def smallest_sizes() -> dict[str, int | None]:
    """Read the sizes in use; None stands for never."""
    return {name: entry["size"] for name, entry in json.loads(SIZES.read_text(encoding="utf-8")).items()}


def pays_off(operation: str, size: int) -> bool:
    """Return whether `auto` prefers a kernel to its reference at this size.

    Args:
        operation: Its name; one without an entry among the sizes pays off at any.
        size: What the sizes of `crossover.json` count: for gathers, elements written.
    """
    smallest = smallest_sizes().get(operation, 0)
    return smallest is not None and size >= smallest


def resolve(
    backend: Backend, tensor: Tensor, operation: str | None = None, size: int = 0
) -> Literal["triton", "torch"]:
    """Turn a call's `backend` into the implementation that runs.

    Args:
        backend: The call's argument, see `chosen`.
        tensor: The operation's first tensor; its device and dtype decide what `auto` means.
        operation: The operation, whose small sizes `auto` leaves to its reference; None asks for the device alone.
        size: Its size, see `pays_off`.

    Raises:
        ValueError: Triton was demanded for tensors that it cannot reach.
    """
    device = tensor.device
    choice = chosen(backend)
    if choice == "auto":
        return "triton" if reachable(tensor) and (operation is None or pays_off(operation, size)) else "torch"
    if choice == "torch":
        return "torch"
    if device.type not in ("cuda", "meta") and not interpreting():
        raise ValueError(
            f"backend 'triton' was demanded for tensors on {device}; it needs CUDA tensors, or TRITON_INTERPRET=1 set "
            "before Triton is imported (slow, for tests); use 'auto' or 'torch' on this device"
        )
    if tensor.dtype == torch.float64:
        raise ValueError("backend 'triton' was demanded for torch.float64; expected float16, bfloat16 or float32")
    return "triton"
