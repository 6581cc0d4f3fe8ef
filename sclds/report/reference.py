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
    """Return the reference that ships with a run's configuration, found by its name; none for the run that it is of."""
    if run.config is None:
        return None
    wanted = f"{run.config.name}.curve.json"
    path = next((path for path in sorted(SHIPPED.rglob("*.curve.json")) if path.name == wanted), None)
    found = None if path is None else read_reference(path)
    return None if found is None or found.source == source_of(run) else found


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


def source_of(run: Run) -> str:
    """Return a clause on which run it was: steps, processes and machine, versions, commit."""
    steps = f"{run.metrics[-1]['step']:,} steps" if run.metrics else "no step"
    if not run.starts:
        return f"{run.name}, {steps}"
    start = run.starts[-1]
    machines = ", ".join(dict.fromkeys(host.gpu or host.cpu for host in start.hosts))
    commit = f", commit {start.git.commit[:10]}" if start.git else ""
    torch = f", torch {start.versions['torch']}" if "torch" in start.versions else ""
    return f"{run.name}, {steps} by {start.world_size} processes on {machines}, {start.started[:10]}{torch}{commit}"
