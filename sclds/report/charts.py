"""Charts as inline SVG and HTML that take their colors from the page, so that light and dark both read well."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Self, TypeAlias

WIDTH, HEIGHT = 300, 150
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 22
SMOOTHING_SHARE = 0.05
"""Of a measured curve, see `line_chart`."""
TICKS = 4
LINE_COLORS = 5
LEVEL_CHARACTERS = 30
"""Of the name of a level, that fit beside its line."""
TOO_FEW = '<p class="note">Too few logged steps for a curve.</p>'
Points: TypeAlias = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Level:
    """A value that curves are held against, as a dashed line with its name."""

    name: str
    value: float


def line_chart(points: Points, label: str, levels: Sequence[Level] = (), smoothing: float = SMOOTHING_SHARE) -> str:
    """Return a curve over steps: measured values pale, their running mean strong.

    Args:
        points: (step, value), ascending; values that are not finite are left out.
        label: What the curve shows, for readers that cannot see it.
        levels: Drawn beside it, and part of what is said.
        smoothing: Window of the running mean, as a share of the points; 0 draws the values.
    """
    known = [(x, y) for x, y in points if math.isfinite(y)]
    if len(known) < 2:
        return TOO_FEW
    xs, ys = [x for x, _ in known], [y for _, y in known]
    smooth = running_mean(ys, max(1, round(len(ys) * smoothing)))
    frame = _Frame.around([known], levels)
    end_x, end_y = frame.place(xs[-1], smooth[-1])
    drawn = (
        f'<polyline class="raw" points="{frame.path(known)}"/>'
        f'<polyline class="mean" points="{frame.path(list(zip(xs, smooth, strict=True)))}"/>'
        f'<circle class="end" cx="{end_x:.1f}" cy="{end_y:.1f}" r="3.5"/>'
    )
    told = f"from {ys[0]:.3g} at step {xs[0]:g} to {smooth[-1]:.3g} at step {xs[-1]:g}"
    return frame.picture(label, told, drawn, levels)


def lines_chart(curves: Mapping[str, Points], label: str, levels: Sequence[Level] = ()) -> str:
    """Return several curves over steps in colors of their own, with a legend.

    Args:
        curves: (step, value) by name, ascending; values that are not finite are left out.
        label: What the curves show.
        levels: Drawn beside them.
    """
    known = {name: [(x, y) for x, y in points if math.isfinite(y)] for name, points in curves.items()}
    known = {name: points for name, points in known.items() if len(points) > 1}
    if not known:
        return TOO_FEW
    frame = _Frame.around(list(known.values()), levels)
    color = {name: f"line{number % LINE_COLORS}" for number, name in enumerate(known)}
    drawn = "".join(f'<polyline class="mean {color[n]}" points="{frame.path(points)}"/>' for n, points in known.items())
    told = "; ".join(
        f"{name} from {points[0][1]:.3g} at step {points[0][0]:g} to {points[-1][1]:.3g} at step {points[-1][0]:g}"
        for name, points in known.items()
    )
    rows = "".join(
        f'<li><i class="{color[name]}"></i>{escape(name)}<b>{points[-1][1]:.3g}</b></li>'
        for name, points in known.items()
    )
    return f'{frame.picture(label, told, drawn, levels)}<ul class="legend">{rows}</ul>'


@dataclass(frozen=True)
class _Frame:
    """The axes of a chart."""

    ticks: list[float]
    x: tuple[float, float]
    y: tuple[float, float]

    @classmethod
    def around(cls, curves: Sequence[Points], levels: Sequence[Level]) -> Self:
        """Return axes that hold all curves and levels."""
        xs = [x for points in curves for x, _ in points]
        ys = [y for points in curves for _, y in points] + [level.value for level in levels]
        ticks = nice_ticks(min(ys), max(ys))
        return cls(ticks, (min(xs), max(xs)), (min(ticks[0], min(ys)), max(ticks[-1], max(ys))))

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Return where a point lies in the picture."""
        across = (x - self.x[0]) / ((self.x[1] - self.x[0]) or 1)
        up = (y - self.y[0]) / ((self.y[1] - self.y[0]) or 1)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    def path(self, points: Points) -> str:
        """Return the points of a polyline."""
        return " ".join("{:.1f},{:.1f}".format(*self.place(x, y)) for x, y in points)

    def picture(self, label: str, told: str, drawn: str, levels: Sequence[Level]) -> str:
        """Return the whole chart; `told` says in words what is drawn."""
        first, last = self.x
        grid = "".join(_grid_line(tick, self.place(first, tick)[1]) for tick in self.ticks)
        lines = "".join(_level_line(level, self.place(first, level.value)[1]) for level in levels)
        told += "".join(f"; {level.name}: {level.value:.3g}" for level in levels)
        name = re.sub(r"\W+", "-", label).strip("-").lower()
        return (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{name}-title {name}-desc">'
            f'<title id="{name}-title">{escape(label)}</title><desc id="{name}-desc">{escape(told)}</desc>'
            f"{grid}{lines}{drawn}"
            f'<text x="{LEFT}" y="{HEIGHT - 6}">step {first:g}</text>'
            f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">{last:g}</text></svg>'
        )


def _level_line(level: Level, y: float) -> str:
    # below the line where there is room above it for nothing
    text_y = y + 10 if y < TOP + 12 else y - 4
    return (
        f'<line class="level" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="level" x="{WIDTH - RIGHT}" y="{text_y:.1f}" text-anchor="end">'
        f"{escape(shorten(level.name, LEVEL_CHARACTERS))} {level.value:.3g}</text>"
    )


def shorten(text: str, characters: int) -> str:
    """Return text that fits, its middle left out where it does not."""
    half = (characters - 1) // 2
    return text if len(text) <= characters else f"{text[:half]}…{text[-half:]}"


def _grid_line(tick: float, y: float) -> str:
    return (
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{tick:g}</text>'
    )


def nice_ticks(low: float, high: float) -> list[float]:
    """Return about `TICKS` round numbers that enclose or nearly enclose [low, high]."""
    span = (high - low) or abs(high) or 1.0
    raw = span / TICKS
    magnitude = 10 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= raw * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [float(f"{i * step:.10g}") for i in range(first, last + 1)]


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Return the mean of up to `window` values that end at each place."""
    means, total = [], 0.0
    for i, value in enumerate(values):
        total += value - (values[i - window] if i >= window else 0.0)
        means.append(total / min(i + 1, window))
    return means


def stacked_bar(parts: Sequence[tuple[str, str, float]]) -> str:
    """Return a bar of seconds with its legend.

    Args:
        parts: (class of the color, label, seconds), in order.
    """
    total = sum(seconds for *_, seconds in parts) or 1.0
    shown = [(color, label, seconds) for color, label, seconds in parts if seconds > 0]
    segments = "".join(
        f'<span class="{color}" style="flex-grow:{seconds / total:.4f}" title="{escape(label)}"></span>'
        for color, label, seconds in shown
    )
    rows = "".join(
        f'<li><i class="{color}"></i>{escape(label)}<b>{seconds / total:.0%}</b><small>{seconds:.3f} s</small></li>'
        for color, label, seconds in shown
    )
    return f'<div class="bar" role="presentation">{segments}</div><ul class="legend">{rows}</ul>'


def share_bar(value: float, chance: float) -> str:
    """Return a small bar of a fraction, with a mark at what chance gives."""
    return (
        f'<span class="share" title="chance {chance:.1%}"><span style="width:{100 * value:.1f}%"></span>'
        f'<i style="left:{100 * min(chance, 1.0):.1f}%"></i></span>'
    )
