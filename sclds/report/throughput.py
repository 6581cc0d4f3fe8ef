"""How fast runs were: rates over time with what happened, phases of a step, and what was measured beside them."""

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Any

from sclds.costs.peak import summarize_steps
from sclds.report.chart import Chart, Mark, Series, drawable, shown
from sclds.report.charts import cards, stacked_bar
from sclds.report.curves import overlaid
from sclds.report.marks import TITLES, marks_of
from sclds.report.parts import facts, folded, note, table
from sclds.report.run_contents import Run

STAGES = {
    "data": "Waiting for data",
    "forward": "Forward",
    "backward": "Backward",
    "optimizer": "Optimizer",
    "other": "Logging and the rest",
}
RATE = "samples_per_second"
FIGURES = {
    RATE: ("Samples per second", ""),
    "tokens_per_second": ("Tokens per second", ""),
    "mfu": ("MFU, of the data sheet's peak", "%"),
    "mfu_measured": ("MFU, of the measured peak", "%"),
    "hfu": ("HFU, recomputation counted", "%"),
    "hfu_measured": ("HFU, of the measured peak", "%"),
    "memory_bytes": ("Memory", "B"),
    "wire_bytes": ("Over the network, per step", "B"),
    "overlap": ("Communication behind computing", "%"),
    "padding_avoided": ("Padding avoided", "%"),
    "host_seconds": ("Host time of a step", "s"),
    "ranks": ("Step of the ranks", "s"),
    "goodput": ("Goodput so far", "%"),
}
"""Entry of a metrics line, which is a number or numbers by name → its title and unit."""
RANKS = ("min", "median", "max")
PHASE_COLORS = 8
MARKS_LISTED = 40
_NUMBERS = (int, float)
OPEN = 8
"""Marks up to so many are listed without a click."""


def throughput(runs: Mapping[str, Run]) -> str:
    """Return rates over time, and the medians of what was logged beside them."""
    charts = throughput_charts(runs)
    if not charts:
        return note("No step was timed yet.")
    marks = {name: marks_of(run) for name, run in runs.items()}
    told = (
        f"A stall is a logged stretch at less than half of the median rate. "
        f"{'; '.join(_counted(name if len(runs) > 1 else '', found) for name, found in marks.items())}."
    )
    slow = "".join(note(slowest(name if len(runs) > 1 else "", run)) for name, run in runs.items())
    return note(told) + _key(marks) + cards(charts) + slow + _listed_marks(marks) + _medians(runs)


def slowest(name: str, run: Run) -> str:
    """Return which rank the others wait for most often, where ranks were compared; empty where they were not."""
    known = [ranks for line in run.evenly if isinstance(ranks := line.get("ranks"), dict) and "rank" in ranks]
    named = Counter((ranks["rank"], str(ranks.get("host", "")), str(ranks.get("phase", ""))) for ranks in known)
    if not named or (run.starts and run.starts[-1].world_size < 2):
        return ""
    [((rank, host, phase), count)] = named.most_common(1)
    where = f" on {host}" if host else ""
    during = f", in {phase.replace('_', ' ')}" if phase else ""
    before = f"{name}: " if name else ""
    return f"{before}Slowest most often: rank {rank}{where}{during} ({count / len(known):.0%} of the logged steps)."


def throughput_charts(runs: Mapping[str, Run]) -> list[Chart]:
    """Return a wide chart of the rate with marks of a single run, and one for everything else that was logged."""
    charts = []
    for entry, (title, unit) in FIGURES.items():
        series: list[Series] = []
        columns = {name: _columns(run.metrics, entry) for name, run in runs.items()}
        parts = _parts_in(columns.values())
        for part in parts:
            points = {
                name: list(zip((line["step"] for line in run.metrics), columns[name].get(part, ()), strict=False))
                for name, run in runs.items()
            }
            series += [_named(one, part, len(parts) > 1) for one in overlaid(runs, points)]
        first = entry == RATE
        marks: list[Mark] = next(iter(map(marks_of, runs.values()))) if first and len(runs) == 1 else []
        charts.append(Chart(title, tuple(series), marks=tuple(marks), unit=unit, wide=first, from_zero=True))
    waits = {name: [(line["step"], _wait(line)) for line in run.metrics] for name, run in runs.items()}
    charts.append(Chart("Share of a step that waits for data", tuple(overlaid(runs, waits)), unit="%", from_zero=True))
    return drawable(charts)


def _named(series: Series, part: str, several: bool) -> Series:
    """Return a curve under the name of its part, which then has a color of its own."""
    name = ", ".join(one for one in (part.replace("_", " "), series.name) if one)
    return replace(series, name=name, place=None if several else series.place)


def parts_of(line: Mapping[str, Any], entry: str) -> dict[str, float]:
    """Return the numbers of an entry of a line: itself, or those of its table; none where it is missing or other."""
    found = line.get(entry)
    if not isinstance(found, dict):
        return {"": float(found)} if isinstance(found, _NUMBERS) and not isinstance(found, bool) else {}
    if entry == "ranks":  # beside their times it names the slowest one
        found = {part: found[part] for part in RANKS if part in found}
    return {
        str(part): float(number)
        for part, number in found.items()
        if isinstance(number, _NUMBERS) and not isinstance(number, bool)
    }


def _columns(lines: Sequence[Mapping[str, Any]], entry: str) -> dict[str, list[float | None]]:
    """Return an entry's numbers by part, each as long as the lines; one without a name where it is a number."""
    columns: dict[str, list[float | None]] = {}
    for place, line in enumerate(lines):
        if line.get(entry) is not None:
            for part, number in parts_of(line, entry).items():
                columns.setdefault(part, [None] * len(lines))[place] = number
    return columns


def _parts_in(columns: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the names of an entry's numbers over all runs."""
    return list(dict.fromkeys(part for of_run in columns for part in of_run))


def _wait(line: Mapping[str, Any]) -> float | None:
    seconds = parts_of(line, "seconds")
    return seconds["data"] / seconds["total"] if seconds.get("total") and "data" in seconds else None


def _counted(name: str, marks: list[Mark]) -> str:
    counts = Counter(mark.kind for mark in marks)
    said = ", ".join(f"{counts[kind]} {_plural(title, counts[kind])}" for kind, title in TITLES.items())
    return f"{name}: {said}" if name else f"Here: {said}"


def _plural(title: str, count: int) -> str:
    first, *rest = title.split(" ", 1)
    return title if count == 1 else " ".join([f"{first}s", *rest])


def _key(marks: Mapping[str, list[Mark]]) -> str:
    """Return what the marks of a chart mean; none where several runs are drawn over one another, without marks."""
    if len(marks) > 1 or not any(marks.values()):
        return ""
    kinds = dict.fromkeys(mark.kind for found in marks.values() for mark in found)
    rows = "".join(f'<li><i class="mark {kind}"></i>{escape(TITLES[kind])}</li>' for kind in TITLES if kind in kinds)
    return f'<ul class="legend key">{rows}</ul>'


def _listed_marks(marks: Mapping[str, list[Mark]]) -> str:
    lists = []
    for name, found in marks.items():
        odd = [mark for mark in found if mark.kind != "checkpoint"]
        rows = [(f"step {mark.x:,.0f}", mark.text) for mark in odd[-MARKS_LISTED:]]
        if rows:
            more = f"the last {MARKS_LISTED} of {len(odd)} " if len(odd) > MARKS_LISTED else ""
            title = f"{name}: " if len(marks) > 1 else ""
            content = f'<dl class="facts">{facts(rows)}</dl>'
            lists.append(folded(f"{title}{more}stalls, restarts and faults", content, len(rows) <= OPEN))
    return f'<div class="card">{"".join(lists)}</div>' if lists else ""


def _medians(runs: Mapping[str, Run]) -> str:
    """Return a table of what was logged: median, and between which values nine of ten lines lie."""
    rows = []
    for entry, (title, unit) in FIGURES.items():
        found = [_columns(run.evenly[1:] or run.evenly, entry) for run in runs.values()]
        for part in _parts_in(found):
            cells = []
            for of_run in found:
                values = sorted(value for value in of_run.get(part, ()) if value is not None)
                cells += [""] * 2 if not values else _spread(values, unit)
            rows.append((f"{title}{f': {part}' if part else ''}", cells))
    columns = [
        f"{what}, {name}" if len(runs) > 1 else what for name in runs for what in ("median", "5 % to 95 % of lines")
    ]
    return table("Throughput", columns, rows) if rows else ""


def _spread(values: list[float], unit: str) -> list[str]:
    low, high = values[int(0.05 * (len(values) - 1))], values[round(0.95 * (len(values) - 1))]
    return [shown(statistics.median(values), unit), f"{shown(low, unit)} to {shown(high, unit)}"]


def phases(runs: Mapping[str, Run]) -> str:
    """Return where the time of a step went: by stage, and by phase where those were measured."""
    told = []
    for name, run in runs.items():
        pace = summarize_steps(run.evenly)
        if not pace:
            continue
        title = f"<h3>{escape(name)}</h3>" if len(runs) > 1 else ""
        seconds = pace["seconds"]
        bar = stacked_bar([(stage, label, seconds[stage]) for stage, label in STAGES.items()])
        sentence = f"An optimizer step takes {seconds['total']:.3f} s; {pace['samples_per_second']:,.0f} samples/s."
        told.append(f'<div class="card">{title}{note(sentence)}{bar}{_phase_bar(run)}</div>')
    return "".join(told) or note("No step was timed yet.")


def _phase_bar(run: Run) -> str:
    means = phase_means(run.evenly)
    if not means:
        return ""
    return "<h4>By phase, on this rank</h4>" + phase_bar(means)


def phase_bar(means: Mapping[str, float], order: Sequence[str] = ()) -> str:
    """Return a bar of seconds by phase, in the order of the step.

    Args:
        means: Seconds by phase.
        order: Phases of all bars that stand together, so that a color is one phase; empty for a bar alone, which has
            its legend below it.
    """
    names = list(order or means)
    parts = [(phase_color(names.index(name)), phase_title(name), s) for name, s in means.items()]
    return stacked_bar(parts, legend=not order)


def phase_color(place: int) -> str:
    """Return the class of a color for the phase at a place of the step."""
    return f"phase{place % PHASE_COLORS}"


def phase_title(name: str) -> str:
    """Return what people read for a phase."""
    return name.replace("/", ": ").replace("_", " ").capitalize()


def phase_means(lines: list[dict[str, Any]]) -> dict[str, float]:
    """Return the mean seconds of each phase over the lines that have it, the first one left out: it warms up."""
    timed = [found for line in lines if (found := parts_of(line, "phases")) and "" not in found]
    timed = timed[1:] or timed
    names = dict.fromkeys(name for line in timed for name in line)
    return {name: statistics.fmean(line.get(name, 0.0) for line in timed) for name in names}
