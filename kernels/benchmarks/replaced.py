"""Where a step calls the registered operations, and one of them replaced by its reference."""

import contextlib
import sys
from collections.abc import Iterator
from functools import partial
from unittest import mock

from scl_kernels.registry import Operation


def uses(operation: Operation) -> list[tuple[str, str]]:
    """Return where the step may call an operation: the model's modules, and the names that they know it by."""
    modules = [(name, module) for name, module in sys.modules.items() if name.startswith("sclds.")]
    names = [(name, attribute, value) for name, module in modules for attribute, value in vars(module).items()]
    return [(name, attribute) for name, attribute, value in names if any(value is f for f in operation.functions)]


@contextlib.contextmanager
def without(operation: Operation | None) -> Iterator[None]:
    """Replace one operation by its reference wherever the step calls it."""
    with contextlib.ExitStack() as stack:
        for module, name in uses(operation) if operation else ():
            function = getattr(sys.modules[module], name)
            stack.enter_context(mock.patch.object(sys.modules[module], name, partial(function, backend="torch")))
        yield
