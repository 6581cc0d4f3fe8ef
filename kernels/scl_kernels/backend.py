"""The one switch between the Triton kernels and their PyTorch twins."""

import os
from typing import Literal, cast, get_args

import torch
from torch import Tensor

Backend = Literal["auto", "triton", "torch"]
"""`auto`: Triton for CUDA tensors, PyTorch for all others; `triton` and `torch`: that one, always."""

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


def interpreting() -> bool:
    """Whether Triton's interpreter was asked for, which runs kernels slowly on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def resolve(backend: Backend, tensor: Tensor) -> Literal["triton", "torch"]:
    """Turn a call's `backend` into the implementation that runs.

    Args:
        backend: The call's argument; `auto` hands over to the process-wide choice.
        tensor: The operation's first tensor; its device and dtype decide what `auto` means.

    Raises:
        ValueError: Triton was demanded for tensors that it cannot reach.
    """
    device = tensor.device
    choice = _validated(backend)
    if choice == "auto":
        choice = _process_wide
    if choice == "auto":
        return "triton" if device.type == "cuda" and tensor.dtype != torch.float64 else "torch"
    if choice == "torch":
        return "torch"
    if device.type not in ("cuda", "meta") and not interpreting():
        raise ValueError(
            f"backend 'triton' was demanded for tensors on {device}; it needs CUDA tensors, or TRITON_INTERPRET=1 set "
            "before Triton is imported (slow, for tests); use 'auto' or 'torch' on this device"
        )
    if tensor.dtype == torch.float64:
        raise ValueError("backend 'triton' was demanded for torch.float64; wanted float16, bfloat16 or float32")
    return "triton"
