"""The table of operations: what the tools need to know of each, so that none of them names any.

An operation is a package of `scl_kernels` whose module `registration` calls `register`. Its benchmark's workload is the
module of its name in `kernels/benchmarks/`.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from scl_kernels.backend import Backend
from scl_kernels.roofline import Account, Cost, Work
from scl_kernels.threeway import Comparison

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
"""What kernels are compiled for, by the name in Triton's signatures."""
WIDTHS = {"base": 768, "large": 1024}
"""Widths of the packed buffers; kernels that take D as an argument serve all with one compilation."""


class Variant(NamedTuple):
    """One compilation: a kernel with its argument types and constants."""

    name: str
    kernel: Any
    types: dict[str, str]
    constants: dict[str, Any]
    num_warps: int = 4
    num_stages: int = 3
    maxnreg: int | None = None


def _no_accounts() -> Iterable[Account]:
    return ()


def _no_work(x: int, config: Mapping[str, Any], mode: str) -> Work | None:
    return None


@dataclass(frozen=True)
class Operation:
    """One operation, as the tools see it."""

    name: str
    """Also of its package, its benchmark's script and its rows in the benchmarks' CSV."""
    functions: Sequence[Callable[..., Any]]
    """The public functions, which a step calls."""
    cases: Sequence[Any]
    """Inputs for `compare`, small enough for Triton's interpreter."""
    compare: Callable[[Any, torch.dtype, str, Backend], list[Comparison]]
    """Compares a case in a dtype on a device with a backend three ways, see `scl_kernels.threeway`."""
    variants: Callable[[str, int], Iterable[Variant]]
    """Yields the compilations for a name of DTYPES and an architecture (80 or 90) that are held against budgets."""
    device_cases: Sequence[Any] = ()
    """More inputs for `compare`, of sizes that only a GPU computes in time."""
    accounts: Callable[[], Iterable[Account]] = _no_accounts
    """Yields bytes against eager code, with the targets that the kernel check holds."""
    work: Callable[[int, Mapping[str, Any], str], Work | None] = _no_work
    """Returns what a benchmark's row (its x, its config, its mode) has to do at least."""
    cost: Callable[[], Cost] | None = None
    """Returns what an estimate of the smallest size worth a kernel is made of; None where `auto` knows no sizes."""


_registered: dict[str, Operation] = {}


def register(operation: Operation) -> None:
    """Enter an operation into the table.

    Raises:
        ValueError: Its name is taken.
    """
    if operation.name in _registered:
        raise ValueError(f"an operation named {operation.name!r} is registered already; expected a new name")
    _registered[operation.name] = operation


def operations() -> tuple[Operation, ...]:
    """Import the registrations of all packages and return the operations by name."""
    folder = Path(__file__).parent
    for module in pkgutil.iter_modules([str(folder)]):
        if module.ispkg and (folder / module.name / "registration.py").is_file():
            importlib.import_module(f"scl_kernels.{module.name}.registration")
    return tuple(_registered[name] for name in sorted(_registered))
