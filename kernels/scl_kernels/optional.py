"""Libraries that make a run faster where they are installed: what is present, why it counts or not, what to do."""

import importlib.util
from pathlib import Path
from typing import NamedTuple


class OptionalLibrary(NamedTuple):
    """One optional library as found in this environment."""

    name: str
    present: bool
    why: str
    """What was found, one clause."""
    remedy: str
    """The command or source that supplies it; empty where it is present."""


class _Wanted(NamedTuple):
    name: str
    package: str
    modules: tuple[str, ...]
    gives: str
    remedy: str


_WANTED = (
    _Wanted(
        "NVIDIA Apex",
        "apex",
        ("optimizers", "normalization"),
        "FusedAdam and FusedLayerNorm",
        "build it from github.com/NVIDIA/apex; the package named apex on PyPI is another project",
    ),
    _Wanted(
        "flash-attn",
        "flash_attn",
        ("flash_attn_interface",),
        "variable-length attention",
        "pip install flash-attn --no-build-isolation",
    ),
    _Wanted("Liger Kernel", "liger_kernel", ("ops",), "a fused LayerNorm", "pip install liger-kernel"),
)


def _inspect(wanted: _Wanted) -> OptionalLibrary:
    spec = importlib.util.find_spec(wanted.package)
    if spec is None:
        return OptionalLibrary(wanted.name, False, "not installed", wanted.remedy)
    places = [Path(place) for place in spec.submodule_search_locations or ()]
    missing = [
        module
        for module in wanted.modules
        if not any((place / module).is_dir() or (place / f"{module}.py").is_file() for place in places)
    ]
    if missing:
        why = f"a package `{wanted.package}` is installed, but it is another one: it has no {' and no '.join(missing)}"
        return OptionalLibrary(wanted.name, False, why, f"pip uninstall {wanted.package}; then {wanted.remedy}")
    return OptionalLibrary(wanted.name, True, f"installed, gives {wanted.gives}", "")


def optional_libraries() -> list[OptionalLibrary]:
    """Look for every optional library by its modules, without importing any of them."""
    return [_inspect(wanted) for wanted in _WANTED]


def library(name: str) -> OptionalLibrary:
    """Look for one optional library by its name in messages, for instance `NVIDIA Apex`."""
    return next(_inspect(wanted) for wanted in _WANTED if wanted.name == name)
