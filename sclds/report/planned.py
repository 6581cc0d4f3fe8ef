"""Plan against measured: what `sclds plan` says of a run's configuration and machines, beside what the run did."""

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sclds.config import Config
from sclds.config.errors import UserError
from sclds.costs.peak import summarize_steps
from sclds.costs.plan import DEFAULT_UTILIZATION, GPUS, plan
from sclds.report.chart import shown
from sclds.report.parts import note, table
from sclds.report.run_contents import Run
from sclds.report.throughput import parts_of
from sclds.run.environment import Start

PLAN = "plan.json"
"""What `sclds plan --json` printed, where somebody put it beside the run; it is taken instead of a new one."""
_PLANNED = {"memory": ("memory", "bytes_per_gpu"), "wire": ("communication", "bytes_per_step")}


def planned_section(run: Run) -> str:
    """Return the table, or a sentence on why there is none."""
    found = predicted(run)
    if isinstance(found, str):
        return note(found)
    measured = _measured(run)
    rows = []
    for key, title, unit in (
        ("rate", "Samples per second", ""),
        ("seconds", "Seconds per step", "s"),
        ("memory", "Memory of a GPU", "B"),
        ("wire", "Received per step and GPU", "B"),
    ):
        plan_says, run_says = found.get(key), measured.get(key)
        if plan_says is None:
            continue
        ratio = f"{run_says / plan_says:.2f}" if run_says and plan_says else ""
        rows.append((title, [shown(plan_says, unit), "" if run_says is None else shown(run_says, unit), ratio]))
    text = (
        f"{found['source']}. What of it is computed and what estimated: docs/costs.md. What this run did not measure "
        f"is left empty."
    )
    return note(text) + table("Plan against measured", ("planned", "measured", "measured / planned"), rows)


def predicted(run: Run) -> dict[str, Any] | str:
    """Return rate, seconds of a step, memory and traffic that a plan gives for a run, or why there is no plan."""
    beside = run.folder / PLAN
    if beside.is_file():
        return _read(beside)
    if run.config is None or not run.starts:
        return "There is no plan without the run's settings and machines (config.yaml, environment.json)."
    start = run.starts[-1]
    kind = kind_of(start)
    if kind is None:
        return (
            f"No plan is made for {_machines(start)}: it knows {', '.join(GPUS)}. What `sclds plan --json` prints for "
            f"another machine, saved as {PLAN} in the run folder, is shown here."
        )
    return of_config(run.config, start.world_size, kind, run.results.get("profile", {}).get("text_tokens"))


def of_config(config: Config, gpus: int, kind: str, text_tokens: float | None) -> dict[str, Any] | str:
    """Return what `sclds plan` predicts; the seam to `sclds.costs`."""
    tokens = min(round(text_tokens or 12), config.data.max_text_tokens)
    try:
        made = plan(config, gpus, kind, DEFAULT_UTILIZATION, tokens)
    except UserError as fault:
        return f"No plan: {fault}"
    source = f"`sclds plan` for {gpus} × {kind} at {DEFAULT_UTILIZATION:.0%} of the data sheet's peak"
    return {**_figures(made), "source": source}


def kind_of(start: Start) -> str | None:
    """Return the name by which plans know the GPUs of a start; None for a CPU, unknown ones, or a mixture."""
    names = {host.gpu.lower() for host in start.hosts}
    known = {kind for kind in GPUS for name in names if kind in name}
    return known.pop() if len(known) == 1 and len(names) == 1 else None


def _machines(start: Start) -> str:
    return ", ".join(dict.fromkeys(host.gpu or f"a CPU ({host.cpu})" for host in start.hosts)) or "these machines"


def _read(path: Path) -> dict[str, Any] | str:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as fault:
        return f"{path.name} cannot be read ({' '.join(str(fault).split())})."
    if not isinstance(found, dict):
        return f"{path.name} holds no plan, but a {type(found).__name__}."
    figures = _figures(found)
    return (
        {**figures, "source": f"{path.name} in the run folder"} if figures else f"{path.name} holds no plan's figures."
    )


def _figures(made: Mapping[str, Any]) -> dict[str, Any]:
    """Return of a plan what a run measures, whatever else it holds."""
    found: dict[str, Any] = {}
    for key, entry in (("rate", "samples_per_second"), ("seconds", "seconds_per_step")):
        if isinstance(made.get(entry), int | float):
            found[key] = float(made[entry])
    for key, (part, entry) in _PLANNED.items():
        table_of = made.get(part)
        value = table_of.get(entry) if isinstance(table_of, dict) else None
        if isinstance(value, int | float):
            found[key] = float(value)
    return found


def _measured(run: Run) -> dict[str, float]:
    pace = summarize_steps(run.evenly)
    found = {"rate": pace["samples_per_second"], "seconds": pace["seconds"]["total"]} if pace else {}
    if run.starts and run.starts[-1].peak_device_bytes:
        found["memory"] = run.starts[-1].peak_device_bytes
    wire = [sum(parts.values()) for line in run.evenly if (parts := parts_of(line, "wire_bytes"))]
    return found | ({"wire": statistics.median(wire)} if wire else {})
