"""Frozen dataclasses of tensors that move as a whole: to a device, into pinned memory; sizes counted."""

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

HOST = {"host": True}
"""Metadata of a dataclass field that stays on the host whatever moves: lengths, names, counts."""


_ALIGNMENT = 64
"""Bytes at multiples of which tensors begin in a block."""


@dataclass(frozen=True)
class Slot:
    """Where a tensor lies in a block."""

    first: int
    """Its first byte."""
    dtype: torch.dtype
    shape: torch.Size


class Placed:
    """Base of the dataclasses that make up a batch.

    A field is a tensor, a `Placed`, a tuple or dictionary of these, or plain data. Fields with the metadata `HOST` stay
    as they are. An object that stands in several places is moved once.
    """

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> Self:
        """Return a copy on a device, floating-point tensors in `dtype` if one is given; one copy if it is one block."""
        block = self._block()
        moved = None if block is None else block.to(device, non_blocking=True)

        def move(tensor: Tensor) -> Tensor:
            kind = dtype if tensor.is_floating_point() else None
            if block is None or moved is None or tensor.device != block.device:
                return tensor.to(device, kind, non_blocking=True)
            first = tensor.storage_offset() * tensor.itemsize
            return moved[first : first + tensor.nbytes].view(tensor.dtype).view(tensor.shape).to(kind or tensor.dtype)

        return self._mapped(move, {})

    def in_one_block(self, pinned: bool = False) -> Self:
        """Return a copy whose tensors on the host lie in one block of memory.

        Args:
            pinned: From pinned memory a CUDA device copies while it computes, and the host goes on.
        """
        starts, size = {}, 0
        for tensor in self._host_tensors():
            starts[id(tensor)], size = size, size + -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
        block = torch.empty(size, dtype=torch.uint8, pin_memory=pinned)

        def move(tensor: Tensor) -> Tensor:
            if id(tensor) not in starts:
                return tensor
            first = starts[id(tensor)]
            return block[first : first + tensor.nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor)

        return self._mapped(move, {})

    def emptied(self) -> tuple[Tensor, Self]:
        """Return the block of the tensors on the host as bytes, and a copy that has slots in their stead."""
        whole = self.in_one_block()
        block = whole._block()
        assert block is not None

        def slot(tensor: Tensor) -> Any:
            if tensor.device.type != "cpu":
                return tensor
            return Slot(int(tensor.storage_offset()) * tensor.itemsize, tensor.dtype, tensor.shape)

        return block, whole._mapped(slot, {})

    def filled(self, block: Tensor) -> Self:
        """Return a copy whose slots are tensors in a block again, see `emptied`."""

        def fill(slot: Any) -> Any:
            if not isinstance(slot, Slot):
                return slot
            size = slot.shape.numel() * slot.dtype.itemsize
            return block[slot.first : slot.first + size].view(slot.dtype).view(slot.shape)

        return self._mapped(fill, {})

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors that move."""
        sizes: dict[int, int] = {}

        def count(tensor: Tensor) -> Tensor:
            sizes[id(tensor)] = tensor.nbytes
            return tensor

        self._mapped(count, {})
        return sum(sizes.values())

    def _host_tensors(self) -> list[Tensor]:
        found: dict[int, Tensor] = {}

        def note(tensor: Tensor) -> Tensor:
            if tensor.device.type == "cpu":
                found[id(tensor)] = tensor
            return tensor

        self._mapped(note, {})
        return list(found.values())

    def _block(self) -> Tensor | None:
        """Return the memory that all tensors on the host share, as bytes; None where they do not."""
        tensors = self._host_tensors()
        storages = {tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.nbytes}
        if len(storages) != 1 or not all(tensor.is_contiguous() for tensor in tensors):
            return None
        storage = next(tensor for tensor in tensors if tensor.nbytes).untyped_storage()
        return torch.empty(0, dtype=torch.uint8).set_(storage)

    def _mapped(self, move: Callable[[Any], Any], done: dict[int, Any]) -> Self:
        if id(self) not in done:
            assert is_dataclass(self)
            moving = [f.name for f in fields(self) if not f.metadata.get("host")]
            changed = {name: _moved(getattr(self, name), move, done) for name in moving}
            done[id(self)] = replace(self, **changed)
        moved: Self = done[id(self)]
        return moved


def _moved(value: Any, move: Callable[[Any], Any], done: dict[int, Any]) -> Any:
    if isinstance(value, Tensor | Slot):
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
