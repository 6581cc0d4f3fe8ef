"""Whether all processes run the same: the settings that each has read, and the versions of what computes."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import sclds
from sclds.config import Config
from sclds.config.errors import SharedError
from sclds.config.reading import dump_config
from sclds.train.place import this_place

_MOST = 5
"""Settings or hosts named at once."""


class Gathers(Protocol):
    """What brings the ranks' values together."""

    def gather_objects(self, value: Any) -> list[Any]:
        """Return what every rank gives, in rank order."""


def refuse_different_starts(config: Config, group: Gathers) -> None:
    """Compare what every process has read and runs, before any of them takes a step.

    Args:
        config: This process's settings.
        group: All processes.

    Raises:
        SharedError: On every rank, with the hosts that differ from most.
    """
    settings = dump_config(config)
    host = this_place().host
    facts = versions() | {"settings": hashlib.sha256(settings.encode()).hexdigest()}
    of_ranks = group.gather_objects((host, facts))
    differing = [name for name in facts if len({given[name] for _, given in of_ranks}) > 1]
    if not differing:
        return
    problems = [_difference(name, of_ranks) for name in differing if name != "settings"]
    if "settings" in differing:
        trees = group.gather_objects((host, dict(_flat(config.model_dump(mode="json")))))
        problems.append(_setting_difference(trees))
    raise SharedError("\n".join(problems))


def versions() -> dict[str, str]:
    """Return the versions that decide what a run computes; our own by the code itself, which changes more often."""
    found = {name: version(name) for name in ("torch", "deepspeed")}
    return found | {"sclds": f"{sclds.__version__} (code {code_digest(Path(sclds.__file__).parent)})"}


def code_digest(package: Path) -> str:
    """Return a short SHA-256 over names and bytes of a package's Python files."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _difference(name: str, of_ranks: list[tuple[str, dict[str, str]]]) -> str:
    usual = _usual([given[name] for _, given in of_ranks])
    others = sorted({f"{host} has {given[name]}" for host, given in of_ranks if given[name] != usual})
    return f"hosts run different versions of {name}: {_some(others)}, the others {usual}; install the same on all"


def _setting_difference(trees: list[tuple[str, dict[str, Any]]]) -> str:
    told = []
    for key in sorted({key for _, tree in trees for key in tree}):
        values = [repr(tree.get(key)) for _, tree in trees]
        usual = _usual(values)
        told += sorted({f"{h} has {key}={v}" for (h, _), v in zip(trees, values, strict=True) if v != usual})
    return (
        f"processes have read different settings: {_some(told)}; `sclds launch` writes them where all hosts read the "
        f"same file"
    )


def _usual(values: list[str]) -> str:
    """Return the most frequent value; of several the one of the lowest rank."""
    return Counter(values).most_common(1)[0][0]


def _some(told: list[str]) -> str:
    return ", ".join(told[:_MOST]) + (f" and {len(told) - _MOST} more" if len(told) > _MOST else "")


def _flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Give every leaf of nested settings with its dotted key."""
    rows = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else None
    if rows is None or not tree:
        yield prefix, tree
        return
    for key, value in rows:
        yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
