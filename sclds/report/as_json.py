"""A report as JSON: the figures and curves of its page, and curves alone, as references for later runs."""

import json
from collections.abc import Mapping
from typing import Any

from sclds.costs.peak import summarize_steps
from sclds.report.chart import Chart, Series
from sclds.report.curves import curves_of
from sclds.report.kernels_page import share_of_roofline
from sclds.report.marks import marks_of
from sclds.report.planned import predicted
from sclds.report.reference import KIND, VERSION, source_of
from sclds.report.run_contents import Run
from sclds.report.settings import setting_differences, settings_of
from sclds.report.sources import Sources, charts_of
from sclds.report.throughput import phase_means
from sclds.run.goodput import goodput_of

REPORT_VERSION = 1
CURVE_POINTS = 200
"""Of each curve of a reference: its file ships with the package."""


def report_json(found: Sources) -> str:
    """Return everything that a page says in numbers."""
    from scl_kernels.registry import operations

    tree: dict[str, Any] = {"kind": "report", "version": REPORT_VERSION}
    tree["runs"] = {name: _run(run) for name, run in found.runs.items()}
    if len(found.runs) > 1:
        differing = setting_differences(found.runs)
        tree["settings_that_differ"] = {n: dict(zip(found.runs, v, strict=True)) for n, v in differing.items()}
    tree["charts"] = [_chart(chart) for chart in charts_of(found)]
    tree["profiles"] = [
        {"name": one.name, "variants": one.variants, "problems": one.problems} for one in found.profiles
    ]
    if found.kernels is not None:
        work = {operation.name: operation.work for operation in operations()}
        rows = [row._asdict() | {"share_of_roofline": _share(row, work)} for row in found.kernels.rows]
        tree["kernels"] = {"rows": rows, "problems": found.kernels.problems}
    return json.dumps(tree, indent=1, ensure_ascii=False) + "\n"


def _share(row: Any, work: Mapping[str, Any]) -> float | None:
    return share_of_roofline(row, work.get(row.kernel)) if row.metric == "milliseconds" else None


def _run(run: Run) -> dict[str, Any]:
    """Return what a page says of a run."""
    good, pace, plan = goodput_of(run.events), summarize_steps(run.evenly), predicted(run)
    return {
        "folder": str(run.folder),
        "problems": run.problems,
        "step": run.metrics[-1]["step"] if run.metrics else None,
        "logged": run.logged,
        "results": {key: value for key, value in run.results.items() if key != "examples"},
        "pace": pace,
        "phases": phase_means(run.evenly),
        "goodput": None if good is None else {"share": good.share, "seconds": dict(good.seconds)},
        "marks": [{"kind": mark.kind, "step": mark.x, "text": mark.text} for mark in marks_of(run)],
        "plan": plan if isinstance(plan, dict) else {"missing": plan},
        "starts": [start.model_dump() for start in run.starts],
        "settings": settings_of(run),
    }


def _chart(chart: Chart) -> dict[str, Any]:
    return {
        "title": chart.title,
        "x": chart.x_name,
        "unit": chart.unit,
        "series": [_series(one) for one in chart.series],
        "levels": {level.name: level.value for level in chart.levels},
    }


def _series(series: Series) -> dict[str, Any]:
    tree: dict[str, Any] = {"name": series.name, "x": series.xs, "y": [_short(y) for y in series.ys]}
    return tree | ({"mean": [_short(mean) for mean in series.means]} if series.means else {})


def curves_json(run: Run) -> str:
    """Return the curves of a run as a reference for others: means of losses, held-out figures, whose they are."""
    curves = {}
    for name, points in curves_of(run).items():
        every = max(1, -(-len(points) // CURVE_POINTS))
        kept = points[::every] + ([points[-1]] if (len(points) - 1) % every else [])
        curves[name] = [[_whole(x), _short(y)] for x, y in kept]
    tree = {"kind": KIND, "version": VERSION, "source": source_of(run), "settings": settings_of(run)}
    head = json.dumps(tree, ensure_ascii=False, indent=1).removesuffix("\n}")
    rows = ",\n".join(
        f"  {json.dumps(name)}: {json.dumps(points, separators=(',', ':'))}" for name, points in curves.items()
    )
    return f'{head},\n "curves": {{\n{rows}\n }}\n}}\n'


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _whole(value: float) -> float:
    return int(value) if value == int(value) else value
