"""Frozen dataclasses of tensors that move as a whole: to a device, into pinned memory; sizes counted."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

HOST = {"host": True}
"""Metadata of a dataclass field that stays on the host whatever moves: lengths, names, counts."""


class Placed:
    """Base of the dataclasses that make up a batch.

    A field is a tensor, a `Placed`, a tuple or dictionary of these, or plain data. Fields with the metadata `HOST` stay
    as they are. An object that stands in several places is moved once.
    """

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> Self:
        """Return a copy on a device, floating-point tensors in `dtype` if one is given."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype if tensor.is_floating_point() else None, non_blocking=True)

        return self._mapped(move, {})

    def pin_memory(self) -> Self:
        """Return a copy in pinned memory, from which a CUDA device can copy while it computes."""
        return self._mapped(lambda tensor: tensor if tensor.is_cuda else tensor.pin_memory(), {})

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors that move."""
        sizes: dict[int, int] = {}

        def count(tensor: Tensor) -> Tensor:
            sizes[id(tensor)] = tensor.nbytes
            return tensor

        self._mapped(count, {})
        return sum(sizes.values())

    def _mapped(self, move: Callable[[Tensor], Tensor], done: dict[int, Any]) -> Self:
        if id(self) not in done:
            assert is_dataclass(self)
            moving = [f.name for f in fields(self) if not f.metadata.get("host")]
            changed = {name: _moved(getattr(self, name), move, done) for name in moving}
            done[id(self)] = replace(self, **changed)
        moved: Self = done[id(self)]
        return moved


def _moved(value: Any, move: Callable[[Tensor], Tensor], done: dict[int, Any]) -> Any:
    if isinstance(value, Tensor):
        if id(value) not in done:
            done[id(value)] = move(value)
        return done[id(value)]
    if isinstance(value, Placed):
        return value._mapped(move, done)
    if isinstance(value, tuple):
        return tuple(_moved(item, move, done) for item in value)
    if isinstance(value, dict):
        return {key: _moved(item, move, done) for key, item in value.items()}
    return value
