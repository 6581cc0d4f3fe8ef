"""Charts as inline SVG and HTML that take their colors from the page, so that light and dark both read well.

Beside each picture stand its numbers, out of which the page's script (`pointer.py`) answers the pointer and the keys;
without a script the picture and its words remain.
"""

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Self

from sclds.report.chart import Chart, Level, Mark, Points, Series, log_ticks, nice_ticks, shown

LEFT, RIGHT, TOP, BOTTOM = 46, 10, 12, 22
NARROW, WIDE = (300, 150), (960, 200)
"""Width and height of a picture, in a column and over the page."""
LINE_COLORS = 6
TICK_CHARACTERS = 6
"""Of a label, that fit on the left of a picture."""
SMALL = 0.01
"""Below it numbers are written by powers of ten where their labels do not fit."""
LEVEL_CHARACTERS = 30
"""Of the name of a level, that fit beside its line."""
OWN = "this run"
"""In legends, the curve that needs no name where it is alone."""
TOO_FEW = '<p class="note">Too few logged steps for a curve.</p>'


def figure(chart: Chart) -> str:
    """Return a chart with its numbers, and a legend where it has several curves; a sentence where it has none."""
    if not chart.front:
        return TOO_FEW
    sizes = (NARROW, WIDE) if chart.wide else (NARROW,)
    drawn = "".join(_picture(chart, _Frame.around(chart, *size), len(sizes) > 1) for size in sizes)
    data = f'<script type="application/json">{_numbers(chart)}</script>'
    return f'<div class="chart">{drawn}{data}{_legend(chart)}</div>'


def card(chart: Chart, note: str = "") -> str:
    """Return a chart under its title, with the last value of a single curve."""
    front = chart.front
    value = shown(front[0].last, chart.unit) if len(front) == 1 and not front[0].dots else ""
    said = f'<p class="note">{escape(note)}</p>' if note else ""
    wide = " wide" if chart.wide else ""
    return f'<div class="card{wide}"><h3>{escape(chart.title)}<b>{escape(value)}</b></h3>{figure(chart)}{said}</div>'


def cards(charts: Sequence[Chart]) -> str:
    """Return charts side by side; empty where there is none."""
    return f'<div class="curves">{"".join(card(chart) for chart in charts)}</div>' if charts else ""


@dataclass(frozen=True)
class _Frame:
    """The axes of a chart in a picture."""

    width: int
    height: int
    x: tuple[float, float]
    y: tuple[float, float]
    ticks: list[float]
    log_x: bool
    log_y: bool

    @classmethod
    def around(cls, chart: Chart, width: int, height: int) -> Self:
        """Return axes that hold all curves and levels."""
        x, (low, high) = chart.limits()
        ticks = log_ticks(low, high) if chart.log_y else nice_ticks(low, high)
        y = (min(ticks[0], low), max(ticks[-1], high))
        return cls(width, height, x, y, ticks, chart.log_x, chart.log_y)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Return where a point lies in the picture."""
        across, up = _share(x, self.x, self.log_x), _share(y, self.y, self.log_y)
        return LEFT + across * (self.width - LEFT - RIGHT), self.height - BOTTOM - up * (self.height - TOP - BOTTOM)

    def path(self, points: Points) -> str:
        """Return the points of a polyline."""
        return " ".join("{:.1f},{:.1f}".format(*self.place(x, y)) for x, y in points)

    @property
    def numbers(self) -> str:
        """What the script needs to find values under the pointer."""
        sides = [self.width, self.height, LEFT, RIGHT, TOP, BOTTOM]
        return json.dumps([*self.x, *self.y, *sides, int(self.log_x), int(self.log_y)])


def _share(value: float, ends: tuple[float, float], log: bool) -> float:
    low, high = ends
    if log:
        value, low, high = (math.log(max(one, 1e-30)) for one in (value, low, high))
    return (value - low) / ((high - low) or 1)


def _picture(chart: Chart, frame: _Frame, one_of_two: bool) -> str:
    """Return the SVG; its label says in words what it shows."""
    first, last = frame.x
    labels = tick_labels(frame.ticks, chart.unit)
    grid = "".join(_grid_line(frame, tick, text) for tick, text in zip(frame.ticks, labels, strict=True))
    lines = "".join(_level_line(frame, level, chart.unit) for level in chart.levels)
    curves = "".join(_curve(frame, series, color) for series, color in _colored(chart))
    size = f" {'wide' if frame.width == WIDE[0] else 'narrow'}" if one_of_two else ""
    return (
        f'<svg class="plot{size}" viewBox="0 0 {frame.width} {frame.height}" role="img" tabindex="0" '
        f'data-frame="{frame.numbers}" aria-label="{escape(f"{chart.title}: {_told(chart)}")}">'
        f"{grid}{_marks(frame, chart.marks)}{lines}{curves}"
        f'<text x="{LEFT}" y="{frame.height - 6}">{escape(chart.x_name)} {_axis(first)}</text>'
        f'<text x="{frame.width - RIGHT}" y="{frame.height - 6}" text-anchor="end">{_axis(last)}</text></svg>'
    )


def _colored(chart: Chart) -> list[tuple[Series, str]]:
    """Return the curves with their classes, those behind first."""
    colors = (f"line{number % LINE_COLORS}" for number in itertools.count())
    known = [(series, _color(series) or next(colors)) for series in chart.series]
    return sorted(known, key=lambda one: not one[0].behind)


def _color(series: Series) -> str:
    if series.behind:
        return "behind"
    return "" if series.place is None else f"line{series.place % LINE_COLORS}"


def _curve(frame: _Frame, series: Series, color: str) -> str:
    values = list(zip(series.xs, series.ys, strict=True))
    if series.behind:
        means = list(zip(series.xs, series.means or series.ys, strict=True))
        return f'<polyline class="mean behind" points="{frame.path(means)}"/>'
    strong = list(zip(series.xs, series.means, strict=True)) if series.means else values
    pale = f'<polyline class="raw {color}" points="{frame.path(values)}"/>' if series.means else ""
    if series.dots:
        ends = "".join(
            '<circle class="end {}" cx="{:.1f}" cy="{:.1f}" r="3"/>'.format(color, *frame.place(*one)) for one in strong
        )
    else:
        ends = '<circle class="end {}" cx="{:.1f}" cy="{:.1f}" r="3.5"/>'.format(color, *frame.place(*strong[-1]))
    return f'{pale}<polyline class="mean {color}" points="{frame.path(strong)}"/>{ends}'


def _told(chart: Chart) -> str:
    """Return what is drawn in words."""
    curves = "; ".join(
        f"{series.name + ' ' if series.name else ''}from {shown(series.ys[0], chart.unit)} at {chart.x_name} "
        f"{series.xs[0]:g} to {shown(series.last, chart.unit)} at {chart.x_name} {series.xs[-1]:g}"
        for series in chart.series
    )
    levels = "".join(f"; {level.name}: {shown(level.value, chart.unit)}" for level in chart.levels)
    return curves + levels + "".join(f"; {mark.text}" for mark in chart.marks[:20])


def _numbers(chart: Chart) -> str:
    """Return the numbers of a chart as JSON that a page can hold."""
    series = [
        {"name": s.name, "class": color, "x": [_whole(x) for x in s.xs], "y": [_short(y) for y in s.ys]}
        | ({"mean": [_short(mean) for mean in s.means]} if s.means else {})
        for s, color in _colored(chart)
    ]
    marks = [[_whole(mark.x), mark.text] for mark in chart.marks]
    known = {"x": chart.x_name, "unit": chart.unit, "series": series, "marks": marks}
    return json.dumps(known, separators=(",", ":")).replace("<", "\\u003c")


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _whole(value: float) -> float:
    return int(value) if value == int(value) else _short(value)


def _axis(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"


def _legend(chart: Chart) -> str:
    """Return names and last values of several curves, or of one that has a name."""
    if len(chart.series) < 2 and not chart.series[0].name:
        return ""
    rows = "".join(
        f'<li><i class="{color}"></i>{escape(series.name or OWN)}<b>{shown(series.last, chart.unit)}</b></li>'
        for series, color in sorted(_colored(chart), key=lambda one: one[0].behind)
    )
    return f'<ul class="legend">{rows}</ul>'


def _marks(frame: _Frame, marks: Sequence[Mark]) -> str:
    """Return what happened, at the foot of the picture, and what broke the run as a line over its height."""
    drawn = []
    foot = frame.height - BOTTOM
    for mark in marks:
        x = frame.place(mark.x, frame.y[0])[0]
        if mark.kind == "checkpoint":
            drawn.append(f'<path class="mark checkpoint" d="M{x:.1f},{foot - 7}l4,7h-8z"/>')
        else:
            drawn.append(f'<line class="mark {mark.kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{foot}"/>')
    return "".join(drawn)


def _level_line(frame: _Frame, level: Level, unit: str) -> str:
    y = frame.place(frame.x[0], level.value)[1]
    # below the line where there is room above it for nothing
    text_y = y + 10 if y < TOP + 12 else y - 4
    return (
        f'<line class="level" x1="{LEFT}" x2="{frame.width - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="level" x="{frame.width - RIGHT}" y="{text_y:.1f}" text-anchor="end">'
        f"{escape(shorten(level.name, LEVEL_CHARACTERS))} {shown(level.value, unit)}</text>"
    )


def shorten(text: str, characters: int) -> str:
    """Return text that fits, its middle left out where it does not."""
    half = (characters - 1) // 2
    return text if len(text) <= characters else f"{text[:half]}…{text[-half:]}"


def _grid_line(frame: _Frame, tick: float, text: str) -> str:
    y = frame.place(frame.x[0], tick)[1]
    return (
        f'<line x1="{LEFT}" x2="{frame.width - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{text}</text>'
    )


def tick_labels(ticks: Sequence[float], unit: str) -> list[str]:
    """Return the labels of an axis of values; small numbers, as rates are, by powers of ten where room is short."""
    labels = [_tick(tick, unit) for tick in ticks]
    if max(map(len, labels)) <= TICK_CHARACTERS or max(map(abs, ticks)) >= SMALL:
        return labels
    return ["0" if tick == 0 else _by_power(tick) for tick in ticks]


def _tick(tick: float, unit: str) -> str:
    if unit == "%":
        return f"{100 * tick:g} %"
    if unit == "B":
        return shown(tick, unit)
    return f"{tick:,.0f}" if abs(tick) >= 1000 else f"{tick:g}"


def _by_power(value: float) -> str:
    digits, _, power = f"{value:.10e}".partition("e")
    return f"{float(digits):g}e{int(power)}"


def stacked_bar(parts: Sequence[tuple[str, str, float]], legend: bool = True) -> str:
    """Return a bar of seconds with its legend.

    Args:
        parts: (class of the color, label, seconds), in order.
        legend: Whether to name them below; the pointer tells them anyway.
    """
    total = sum(seconds for *_, seconds in parts) or 1.0
    known = [(color, label, seconds) for color, label, seconds in parts if seconds > 0]
    segments = "".join(
        f'<span class="{color}" style="flex-grow:{seconds / total:.4f}" '
        f'data-tip="{escape(label)}: {seconds / total:.1%}, {_seconds(seconds)}"></span>'
        for color, label, seconds in known
    )
    told = escape("; ".join(f"{label} {seconds / total:.0%}" for _, label, seconds in known))
    bar = f'<div class="bar" role="img" aria-label="{told}">{segments}</div>'
    rows = "".join(
        f'<li><i class="{color}"></i>{escape(label)}<b>{seconds / total:.0%}</b><small>{_seconds(seconds)}</small></li>'
        for color, label, seconds in known
    )
    return f'{bar}<ul class="legend">{rows}</ul>' if legend else bar


def _seconds(value: float) -> str:
    return f"{value:,.0f} s" if value >= 100 else f"{value:.3g} s" if value >= 1 else f"{1e3 * value:.3g} ms"


def share_bar(value: float, chance: float) -> str:
    """Return a small bar of a fraction, with a mark at what chance gives."""
    return (
        f'<span class="share" data-tip="chance {chance:.1%}"><span style="width:{100 * value:.1f}%"></span>'
        f'<i style="left:{100 * min(chance, 1.0):.1f}%"></i></span>'
    )
