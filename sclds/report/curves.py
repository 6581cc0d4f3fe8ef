"""The charts of a run: losses beside what guessing gives, the held-out sets, rate and gradient norm."""

from collections.abc import Mapping
from html import escape
from typing import Any

from sclds.evaluation.losses import loss_titles
from sclds.evaluation.retrieval import DIRECTIONS
from sclds.report.charts import Level, Points, line_chart, lines_chart
from sclds.run.metrics import HELDOUT
from sclds.tasks import TASKS

GUESSING = "guessing"
CHANCE = "chance"
BESIDE = {"lr": "Learning rate of the encoders", "grad_norm": "Gradient norm, before clipping"}
"""Entry of a metrics line → its title."""


def training_curves(metrics: list[dict[str, Any]]) -> str:
    """Return a small chart per loss, and of what goes with it; empty where none was logged."""
    cards = []
    for name, title in loss_titles().items():
        points = _points([(line["step"], line.get("loss", {}).get(name)) for line in metrics])
        if points:
            level = _last([line.get("levels", {}).get(name) for line in metrics])
            levels = [] if level is None else [Level(GUESSING, level)]
            cards.append(_card(title, f"{points[-1][1]:.3g}", line_chart(points, title, levels)))
    if not cards:
        return ""
    for name, title in BESIDE.items():
        points = _points([(line["step"], line.get(name)) for line in metrics])
        if points:
            cards.append(_card(title, f"{points[-1][1]:.3g}", line_chart(points, title, smoothing=0)))
    return f'<div class="curves">{"".join(cards)}</div>'


def heldout_curves(metrics: list[dict[str, Any]], results: dict[str, Any]) -> str:
    """Return a chart per figure with a line for each held-out set; empty where none was measured during training."""
    series: dict[str, dict[str, list[tuple[float, float | None]]]] = {}
    for line in metrics:
        for key, value in line.items():
            if key.startswith(HELDOUT):
                name, _, figure = key.removeprefix(HELDOUT).rpartition("/")
                series.setdefault(figure, {}).setdefault(name, []).append((line["step"], value))
    cards = []
    for figure, title in _figure_titles().items():
        curves = {name: points for name, values in series.get(figure, {}).items() if (points := _points(values))}
        if curves:
            label = f"Held out: {title}"
            cards.append(_card(title, "", lines_chart(curves, label, _levels(figure, curves, series, results))))
    return f'<div class="curves">{"".join(cards)}</div>' if cards else ""


def _figure_titles() -> dict[str, str]:
    recalls = {f"{direction}_r10": f"R@10, {label.format('image or video')}" for direction, label in DIRECTIONS.items()}
    answers = {f"{task.name}_{key}": f"{task.title}, {key}" for task in TASKS.values() for key in task.figures}
    return recalls | answers | loss_titles()


def _levels(
    figure: str, curves: Mapping[str, Points], series: Mapping[str, Any], results: Mapping[str, Any]
) -> list[Level]:
    """Return the level of each set, one where they are the same."""
    found: dict[float, list[str]] = {}
    answers = {f"{task.name}_{key}" for task in TASKS.values() for key in task.figures}
    for name in curves:
        if figure.endswith("_r10"):
            counts = [n for _, n in series.get("candidates", {}).get(name, []) if n]
            value, what = (min(1.0, 10 / counts[-1]), CHANCE) if counts else (None, CHANCE)
            ranked = results.get("sets", {}).get(name, {}).get("retrieval", {}).get(figure.removesuffix("_r10"), {})
            if ranked.get("right", 1) != 1:  # several captions of an image are right
                value = ranked.get("chance_r10")
        elif figure in answers:
            task, _, key = figure.rpartition("_")
            value, what = results.get("sets", {}).get(name, {}).get(task, {}).get(key, {}).get("chance"), CHANCE
        else:
            value, what = results.get("sets", {}).get(name, {}).get("levels", {}).get(figure), GUESSING
        if value is not None:
            found.setdefault(round(value, 4), []).append(f"{what}, {name}" if len(curves) > 1 else what)
    if len(found) == 1:
        [value] = found
        return [Level(CHANCE if figure.endswith("_r10") or figure in answers else GUESSING, value)]
    return [Level(name, value) for value, names in found.items() for name in names[:1]]


def _card(title: str, value: str, chart: str) -> str:
    return f'<div class="card"><h3>{escape(title)}<b>{escape(value)}</b></h3>{chart}</div>'


def _points(values: list[tuple[float, float | None]]) -> list[tuple[float, float]]:
    return [(step, value) for step, value in values if value is not None]


def _last(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return known[-1] if known else None
