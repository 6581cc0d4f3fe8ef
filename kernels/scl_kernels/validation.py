"""Checks that every operation makes on its arguments; each error names the argument, what came and what is expected."""

import os
from collections.abc import Sequence

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def debugging() -> bool:
    """Whether SCL_KERNELS_DEBUG=1 asks for the checks that make a GPU wait."""
    return os.environ.get("SCL_KERNELS_DEBUG", "0") == "1"


def check_tensor(
    name: str,
    tensor: Tensor,
    *,
    shape: Sequence[int | None],
    dtypes: Sequence[torch.dtype] = FLOATS,
    device: torch.device | None = None,
) -> None:
    """Refuse a tensor of the wrong shape, dtype or device.

    Args:
        name: The argument's name, for the message.
        tensor: The argument.
        shape: Expected sizes; None where any will do.
        dtypes: Expected dtypes.
        device: Expected device; None where any will do.

    Raises:
        ValueError: One of the three differs, or it is no tensor at all.
    """
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name} is of type {type(tensor).__name__}; expected a tensor")
    if tensor.dim() != len(shape) or any(w is not None and s != w for s, w in zip(tensor.shape, shape, strict=False)):
        expected = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected ({expected})")
    if tensor.dtype not in dtypes:
        expected = " or ".join(str(dtype) for dtype in dtypes)
        raise ValueError(f"{name} has dtype {tensor.dtype}; expected {expected}")
    if device is not None and tensor.device != device:
        raise ValueError(f"{name} is on {tensor.device}; expected {device}")


def check_matrix(name: str, tensor: Tensor) -> tuple[int, int]:
    """Return (rows, D) of a floating-point matrix.

    Raises:
        ValueError: It is something else, or has no columns.
    """
    check_tensor(name, tensor, shape=(None, None))
    rows, width = tensor.shape
    if width == 0:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected at least one column")
    return rows, width


def check_cumulative(name: str, cumulative: Tensor) -> None:
    """Refuse lengths that are not cumulative: expected (S + 1,) int32 on the CPU, from 0 on, never falling.

    Args:
        name: The argument's name, for the message.
        cumulative: The argument.

    Raises:
        ValueError: It is something else.
    """
    check_tensor(name, cumulative, shape=(None,), dtypes=(torch.int32,), device=torch.device("cpu"))
    if cumulative.numel() == 0 or int(cumulative[0]) != 0:
        raise ValueError(f"{name} begins with {cumulative[:1].tolist()}; expected a leading 0")
    falls = (cumulative.diff() < 0).nonzero()
    if len(falls):
        at = int(falls[0])
        raise ValueError(
            f"{name} falls from {int(cumulative[at])} to {int(cumulative[at + 1])} after entry {at}; expected "
            "cumulative lengths, which never fall"
        )


def readable(index: Tensor) -> bool:
    """Whether the host may look at an index's values: on CPU always, elsewhere only under SCL_KERNELS_DEBUG=1."""
    if torch.compiler.is_compiling() or index.is_meta or is_fake(index):
        return False
    return index.device.type == "cpu" or debugging()


def check_range(name: str, index: Tensor, low: int, high: int) -> None:
    """Refuse an index outside [low, high).

    On CPU always; on other devices only under SCL_KERNELS_DEBUG=1, because reading the result makes the host wait
    there. (The kernels write NaN for such a row instead of reading memory that is not theirs.)

    Args:
        name: The argument's name, for the message.
        index: (N,) integers.
        low: Smallest value allowed.
        high: First value not allowed.

    Raises:
        ValueError: A value lies outside.
    """
    if index.numel() == 0 or not readable(index):
        return
    smallest, largest = (int(value) for value in torch.aminmax(index))
    if smallest < low or largest >= high:
        raise ValueError(
            f"{name} holds values from {smallest} to {largest}; expected at least {low} and less than {high}"
        )
