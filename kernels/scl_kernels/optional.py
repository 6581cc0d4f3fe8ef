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
    needs: tuple[str, ...] = ()
    """Modules of other packages, without which this one cannot be imported."""
    shared: bool = False
    """Whether several libraries lie side by side in a package of this name."""


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
        "variable-length attention with dropout",
        "pip install flash-attn --no-build-isolation",
        shared=True,
    ),
    _Wanted(
        "flash-attn 3",
        "flash_attn_interface",
        (),
        "variable-length attention without dropout on compute capability 9.x",
        "build it from the folder hopper of github.com/Dao-AILab/flash-attention",
        ("flash_attn_3",),
    ),
    _Wanted(
        "flash-attn 4",
        "flash_attn",
        ("cute",),
        "variable-length attention without dropout on compute capability 9.x and 10.x",
        "pip install flash-attn-4",
        ("cutlass", "quack"),
        shared=True,
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
    if missing and wanted.shared:
        why = f"not installed; the package `{wanted.package}` that is has no {' and no '.join(missing)}"
        return OptionalLibrary(wanted.name, False, why, wanted.remedy)
    if missing:
        why = f"a package `{wanted.package}` is installed, but it is another one: it has no {' and no '.join(missing)}"
        return OptionalLibrary(wanted.name, False, why, f"pip uninstall {wanted.package}; then {wanted.remedy}")
    absent = [module for module in wanted.needs if importlib.util.find_spec(module) is None]
    if absent:
        why = f"installed without {' and '.join(absent)}, which it imports"
        return OptionalLibrary(wanted.name, False, why, wanted.remedy)
    return OptionalLibrary(wanted.name, True, f"installed, gives {wanted.gives}", "")


def optional_libraries() -> list[OptionalLibrary]:
    """Look for every optional library by its modules, without importing any of them."""
    return [_inspect(wanted) for wanted in _WANTED]


def library(name: str) -> OptionalLibrary:
    """Look for one optional library by its name in messages, for instance `NVIDIA Apex`."""
    return next(_inspect(wanted) for wanted in _WANTED if wanted.name == name)
