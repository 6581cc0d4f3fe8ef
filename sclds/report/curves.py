"""The charts of what runs learned: losses beside what guessing gives, accuracies, held-out sets; one run or several."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sclds.evaluation.losses import ACCURACY, loss_titles
from sclds.evaluation.retrieval import DIRECTIONS
from sclds.objectives import table
from sclds.report.chart import SMOOTHING_SHARE, Chart, Level, Points, Series, drawable
from sclds.report.run_contents import Run
from sclds.run.metrics import HELDOUT
from sclds.tasks import TASKS

GUESSING = "guessing"
CHANCE = "chance"
BESIDE = {"lr": "Learning rate, encoders", "grad_norm": "Gradient norm"}
"""Entry of a metrics line → its title."""


def overlaid(
    runs: Mapping[str, Run], points: Mapping[str, Sequence[tuple[float, Any]]], smoothing: float = 0.0
) -> list[Series]:
    """Return a curve of each run; beside other runs its running mean alone.

    Args:
        runs: By the name that the page gives them.
        points: Of each, by the same name; what is no number is left out.
        smoothing: See `Series.of`.
    """
    series = [Series.of(name if len(runs) > 1 else "", points[name], smoothing, run.even) for name, run in runs.items()]
    if len(runs) == 1:
        return series
    return [replace(one, ys=one.means or one.ys, means=(), place=place) for place, one in enumerate(series)]


def loss_charts(runs: Mapping[str, Run], reference: Mapping[str, Points] | None = None) -> list[Chart]:
    """Return a chart per loss, and of rate and gradient norm where there are losses.

    Args:
        runs: By name.
        reference: Curves to draw behind, by `loss/TERM`.
    """
    charts = []
    for term, title in loss_titles().items():
        points = {name: _of_table(run, "loss", term) for name, run in runs.items()}
        series = overlaid(runs, points, SMOOTHING_SHARE)
        levels = {
            name: level for name, run in runs.items() if (level := _last(_of_table(run, "levels", term))) is not None
        }
        behind = (reference or {}).get(f"loss/{term}")
        if behind:
            series.append(replace(Series.of("reference", behind), behind=True))
        charts.append(Chart(title, tuple(series), tuple(_grouped(GUESSING, levels))))
    charts = drawable(charts)
    if not charts:
        return []
    for entry, title in BESIDE.items():
        points = {name: [(line["step"], line.get(entry)) for line in run.metrics] for name, run in runs.items()}
        charts += drawable([Chart(title, tuple(overlaid(runs, points)))])
    return charts


def accuracy_charts(runs: Mapping[str, Run]) -> list[Chart]:
    """Return a chart per objective of how often the right one was found, beside chance where that is known."""
    charts = []
    for objective in table.OBJECTIVES:
        name = objective.name + ACCURACY
        points = {of_run: _of_table(run, "loss", name) for of_run, run in runs.items()}
        levels = {}
        for of_run, run in runs.items():
            level = _last(_of_table(run, "levels", objective.name))
            if objective.classes is not None:
                levels[of_run] = 1 / objective.classes
            elif level is not None and objective.loss in ("nce", "group_nce"):  # ln n a direction
                levels[of_run] = math.exp(-level / 2)
        series = tuple(overlaid(runs, points, SMOOTHING_SHARE))
        charts.append(Chart(f"{objective.title}: right", series, tuple(_grouped(CHANCE, levels)), unit="%"))
    return drawable(charts)


def heldout_charts(runs: Mapping[str, Run], reference: Mapping[str, Points] | None = None) -> list[Chart]:
    """Return a chart per figure with a line for each held-out set of each run."""
    found: dict[str, dict[str, tuple[Run, str, Points]]] = {}
    for of_run, run in runs.items():
        for figure, sets in _heldout_points(run).items():
            for name, points in sets.items():
                curve = f"{name}, {of_run}" if len(runs) > 1 else name
                found.setdefault(figure, {})[curve] = (run, name, points)
    charts = []
    for figure, title in _figure_titles().items():
        curves = found.get(figure, {})
        series = [Series.of(name, points) for name, (_, _, points) in curves.items()]
        series += [
            replace(Series.of(f"{name}, reference", behind), behind=True)
            for name in dict.fromkeys(name for _, name, _ in curves.values())
            if (behind := (reference or {}).get(f"{HELDOUT}{name}/{figure}"))
        ]
        recall = figure.endswith("_r10")
        known = {
            c: level for c, (run, name, _) in curves.items() if (level := _level_of(figure, run, name)) is not None
        }
        levels = _grouped(CHANCE if recall or figure in _answers() else GUESSING, known)
        charts.append(Chart(f"Held out: {title}", tuple(series), tuple(levels), unit="%" if recall else ""))
    return drawable(charts)


def curves_of(run: Run) -> dict[str, list[tuple[float, float]]]:
    """Return all curves of a run that a reference can be, by `loss/TERM` and `heldout/SET/FIGURE`; means of losses."""
    curves = {}
    terms = dict.fromkeys(term for line in run.metrics for term in line.get("loss", {}))
    for term in terms:
        series = Series.of("", _of_table(run, "loss", term), SMOOTHING_SHARE, run.even)
        curves[f"loss/{term}"] = list(zip(series.xs, series.means, strict=True))
    for figure, sets in _heldout_points(run).items():
        for name, points in sets.items():
            curves[f"{HELDOUT}{name}/{figure}"] = list(points)
    return curves


def _of_table(run: Run, entry: str, name: str) -> list[tuple[float, Any]]:
    return [(line["step"], line.get(entry, {}).get(name)) for line in run.metrics]


def _heldout_points(run: Run) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Return what was measured during training, by figure and set."""
    series: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for line in run.metrics:
        for key, value in line.items():
            if key.startswith(HELDOUT) and value is not None:
                name, _, figure = key.removeprefix(HELDOUT).rpartition("/")
                series.setdefault(figure, {}).setdefault(name, []).append((line["step"], value))
    return series


def _answers() -> dict[str, str]:
    return {f"{task.name}_{key}": f"{task.title}, {key}" for task in TASKS.values() for key in task.figures}


def _figure_titles() -> dict[str, str]:
    recalls = {f"{direction}_r10": f"R@10, {label.format('image or video')}" for direction, label in DIRECTIONS.items()}
    return recalls | _answers() | loss_titles()


def _level_of(figure: str, run: Run, name: str) -> float | None:
    """Return what guessing gives on a held-out set, where it is known."""
    of_set = run.results.get("sets", {}).get(name, {})
    if figure.endswith("_r10"):
        ranked = of_set.get("retrieval") or {}
        ranked = ranked.get(figure.removesuffix("_r10"), {})
        if ranked.get("right", 1) != 1:  # several captions of an image are right
            return ranked.get("chance_r10")
        counts = [line.get(f"{HELDOUT}{name}/candidates") for line in run.metrics]
        known = [count for count in counts if count]
        return min(1.0, 10 / known[-1]) if known else None
    if figure in _answers():
        task, _, key = figure.rpartition("_")
        return of_set.get(task, {}).get(key, {}).get("chance")
    return of_set.get("levels", {}).get(figure)


def _grouped(what: str, levels: Mapping[str, float]) -> list[Level]:
    """Return a level for each curve, one where they are the same to what a chart shows."""
    found: dict[str, tuple[float, list[str]]] = {}
    for name, value in levels.items():
        found.setdefault(f"{value:.3g}", (value, []))[1].append(name)
    if len(found) == 1:
        [(value, _)] = found.values()
        return [Level(what, value)]
    return [Level(f"{what}, {names[0]}", value) for value, names in found.values()]


def _last(values: Sequence[tuple[float, Any]]) -> float | None:
    known = [value for _, value in values if value is not None]
    return float(known[-1]) if known else None
