"""Charts as inline SVG and HTML that take their colors from the page, so that light and dark both read well."""

import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 300, 150
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 22
SMOOTHING_SHARE = 0.05
"""Window of the running mean, as a share of the points."""
TICKS = 4


def line_chart(points: Sequence[tuple[float, float]], label: str) -> str:
    """Return a curve over steps: measured values pale, their running mean strong.

    Args:
        points: (step, value), ascending; values that are not finite are left out.
        label: What the curve shows, for readers that cannot see it.
    """
    known = [(x, y) for x, y in points if math.isfinite(y)]
    if len(known) < 2:
        return '<p class="note">Too few logged steps for a curve.</p>'
    xs, ys = [x for x, _ in known], [y for _, y in known]
    ticks = nice_ticks(min(ys), max(ys))
    low, high = min(ticks[0], min(ys)), max(ticks[-1], max(ys))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - xs[0]) / ((xs[-1] - xs[0]) or 1)
        up = (y - low) / ((high - low) or 1)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    def path(values: Sequence[float]) -> str:
        return " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in zip(xs, values, strict=True))

    smooth = running_mean(ys, max(1, round(len(ys) * SMOOTHING_SHARE)))
    grid = "".join(_grid_line(tick, place(xs[0], tick)[1]) for tick in ticks)
    end_x, end_y = place(xs[-1], smooth[-1])
    description = f"{label} from {ys[0]:.3g} at step {xs[0]:g} to {smooth[-1]:.3g} at step {xs[-1]:g}"
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(description)}">{grid}'
        f'<polyline class="raw" points="{path(ys)}"/><polyline class="mean" points="{path(smooth)}"/>'
        f'<circle class="end" cx="{end_x:.1f}" cy="{end_y:.1f}" r="3.5"/>'
        f'<text x="{LEFT}" y="{HEIGHT - 6}">step {xs[0]:g}</text>'
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">{xs[-1]:g}</text></svg>'
    )


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
