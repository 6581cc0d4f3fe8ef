"""Reference curves: what a run of the same configuration gave elsewhere, drawn behind a run's own.

The file is what `sclds report RUN --out NAME.curve.json` writes, and lies beside the configuration that it belongs to:
`sclds/configs/quickstart.curve.json` beside `quickstart.yaml`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sclds.config.errors import UserError
from sclds.config.shipped import SHIPPED
from sclds.report.chart import Points
from sclds.report.run_contents import Run

KIND, VERSION = "curves", 1


@dataclass(frozen=True)
class Reference:
    """The curves of another run."""

    curves: Mapping[str, Points]
    """By `loss/TERM` and `heldout/SET/FIGURE`."""
    source: str
    """A clause on which run it was."""
    settings: Mapping[str, Any]
    """Its settings by dotted name."""


def reference_of(run: Run) -> Reference | None:
    """Return the reference that ships with a run's configuration, which is found by its name."""
    if run.config is None:
        return None
    wanted = f"{run.config.name}.curve.json"
    path = next((path for path in sorted(SHIPPED.rglob("*.curve.json")) if path.name == wanted), None)
    return None if path is None else read_reference(path)


def read_reference(path: Path) -> Reference:
    """Return the curves of a file.

    Raises:
        UserError: It cannot be read, or holds no curves of this version.
    """
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as fault:
        raise UserError(f"{path} cannot be read as curves ({' '.join(str(fault).split())})") from fault
    if not isinstance(found, dict) or found.get("kind") != KIND or found.get("version") != VERSION:
        raise UserError(
            f"{path} holds no curves of version {VERSION}; expected a file that `sclds report RUN --out "
            f"NAME.curve.json` wrote"
        )
    curves = {}
    for name, points in found.get("curves", {}).items():
        if not all(isinstance(p, list) and len(p) == 2 and all(isinstance(v, int | float) for v in p) for p in points):
            raise UserError(f"{path}: the curve {name} is damaged; expected pairs of a step and a value")
        curves[name] = [(x, y) for x, y in points]
    return Reference(curves, str(found.get("source", "another run")), found.get("settings", {}))
