"""Bytes that a step moves beside its matrix products, counted operator by operator without computing anything."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")
_ATTENTION = "scaled_dot_product"
_GATHERS = ("aten::index", "aten::embedding", "aten::index_select", "aten::gather", "scl_kernels::gather_rows")
"""Read what they write, not the whole table."""
_UNWRITTEN = ("aten::empty", "aten::new_empty", "aten::_unsafe_view", "aten::lift_fresh")
"""Return memory without reading or writing it; by the beginning of their names."""


class ByteCounter(TorchDispatchMode):
    """Adds up what every operator reads and writes, each of its tensors once, in the passes that run inside it.

    Works on tensors without data (`device="meta"`), so that a base-size step is counted in seconds on any machine.
    Bytes of matrix products and attention are left out: their time is not that of their bytes. Views move nothing, and
    are no launches.
    """

    def __init__(self) -> None:
        super().__init__()
        self.by_operator: Counter[str] = Counter()
        self.launches: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """Bytes of all operators."""
        return sum(self.by_operator.values())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operator and count it."""
        out = func(*args, **(kwargs or {}))
        name, returns = func._schema.name, func._schema.returns
        is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in returns)
        if not (is_view or name.startswith(_UNWRITTEN)):
            self.launches[name] += 1
            if name not in PRODUCTS and _ATTENTION not in name:
                written = _bytes(tree_leaves(out))
                read = written if name in _GATHERS else _bytes(tree_leaves((args, kwargs)))
                self.by_operator[name] += read + written
        return out


def _bytes(values: Iterable[Any]) -> int:
    return sum(value.numel() * value.itemsize for value in values if isinstance(value, Tensor))
