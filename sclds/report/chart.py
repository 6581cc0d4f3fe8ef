"""Charts as data: what is drawn, before anybody decides how; the page draws it as SVG, a sheet with matplotlib."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, TypeAlias

Points: TypeAlias = Sequence[tuple[float, float]]

DRAWN_STRETCHES = 150
"""Of a curve: of each, four points are kept, on a chart some 300 pixels wide."""
SMOOTHING_SHARE = 0.05
"""Of the points of a measured curve: the window of its running mean."""
TICKS = 4
_NUMBERS = (int, float)


@dataclass(frozen=True)
class Level:
    """A value that curves are held against, as a dashed line with its name."""

    name: str
    value: float


@dataclass(frozen=True)
class Mark:
    """Something that happened at a step."""

    kind: str
    """`checkpoint`, `restart`, `stall` or `fault`."""
    x: float
    text: str


@dataclass(frozen=True)
class Series:
    """A curve, without what is not finite and without more points than can be seen.

    Attributes:
        name: In legends and under the pointer; empty where a chart has one curve and its title says it.
        xs: Ascending.
        ys: Measured values.
        means: Running mean at the same places, drawn strong with the values pale behind it; empty draws the values.
        behind: Whether it stands behind the others, dashed: the curve of a reference.
        dots: Whether its points are marked, as those of few sizes are.
        place: Whose color it has, as the number of a run; None takes colors in the order of the chart.
    """

    name: str
    xs: tuple[float, ...]
    ys: tuple[float, ...]
    means: tuple[float, ...] = ()
    behind: bool = False
    dots: bool = False
    place: int | None = None

    @classmethod
    def of(
        cls,
        name: str,
        points: Iterable[tuple[float, Any]],
        smoothing: float = 0.0,
        even: frozenset[float] = frozenset(),
    ) -> Self:
        """Return a curve of (x, value), ascending; what is no finite number is left out.

        Args:
            name: Of the curve.
            points: All of them.
            smoothing: Window of the running mean as a share of the points; 0 draws the values.
            even: Places at even distances, over which means are taken; empty where all are.
        """
        known = [(x, float(y)) for x, y in points if isinstance(y, _NUMBERS) and math.isfinite(y)]
        kept = thinned([y for _, y in known])
        means: tuple[float, ...] = ()
        if smoothing:
            smooth = _means(known, smoothing, even)
            means = tuple(smooth[place] for place in kept)
        return cls(name, tuple(known[i][0] for i in kept), tuple(known[i][1] for i in kept), means)

    @property
    def last(self) -> float:
        """The last value, or the mean that ends there."""
        return (self.means or self.ys)[-1]


def _means(points: Points, share: float, even: frozenset[float]) -> list[float]:
    """Return the running mean at every point, taken over those at even distances alone."""
    window = max(1, round(share * (len(even & {x for x, _ in points}) or len(points))))
    own = [y for x, y in points if not even or x in even]
    smooth = running_mean(own, window) or [y for _, y in points[:1]]
    means, place = [], -1
    for x, _ in points:
        place += not even or x in even
        means.append(smooth[max(0, place)])
    return means


@dataclass(frozen=True)
class Chart:
    """Curves over one axis.

    Attributes:
        title: What it shows.
        series: Its curves, each with at least two points, or with dots.
        levels: Drawn beside them.
        marks: Drawn at their steps.
        x_name: What the axis counts.
        unit: Behind values: `%` for shares, else as it is.
        log_x, log_y: Whether an axis is logarithmic.
        from_zero: Whether the axis of values begins at 0.
        wide: Whether it has the page's width to itself.
    """

    title: str
    series: tuple[Series, ...]
    levels: tuple[Level, ...] = ()
    marks: tuple[Mark, ...] = ()
    x_name: str = "step"
    unit: str = ""
    log_x: bool = False
    log_y: bool = False
    from_zero: bool = False
    wide: bool = False

    @property
    def front(self) -> tuple[Series, ...]:
        """The curves that are no reference."""
        return tuple(series for series in self.series if not series.behind)

    def limits(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Return the axes' ends: those of all curves and levels."""
        xs = [x for series in self.series for x in series.xs]
        ys = [y for series in self.series for y in series.ys] + [level.value for level in self.levels]
        if self.log_y:
            ys = [y for y in ys if y > 0] or [1.0]
        low, high = (0.0 if self.from_zero else min(ys)), max(ys)
        return (min(xs), max(xs)), (low, high)


def drawable(charts: Iterable[Chart]) -> list[Chart]:
    """Return charts without curves of a single point, and without those of which nothing is left."""
    kept = []
    for chart in charts:
        series = tuple(one for one in chart.series if len(one.xs) > 1 or (one.dots and one.xs))
        if any(not one.behind for one in series):
            kept.append(replace(chart, series=series))
    return kept


def thinned(values: Sequence[float], stretches: int = DRAWN_STRETCHES) -> list[int]:
    """Return the places of a curve that a picture can tell apart: first, least, largest and last of each stretch.

    Drawn in pixel columns of that width the picture is that of all points (M4; Jugel, Jerzak, Hackenbroich and Markl,
    "M4: A Visualization-Oriented Time Series Data Aggregation", VLDB 2014), so no spike is lost.
    """
    count = len(values)
    if count <= 4 * stretches:
        return list(range(count))
    kept: list[int] = []
    for number in range(stretches):
        places = range(number * count // stretches, (number + 1) * count // stretches)
        least, most = min(places, key=values.__getitem__), max(places, key=values.__getitem__)
        kept += sorted({places[0], least, most, places[-1]})
    return kept


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Return the mean of up to `window` values that end at each place."""
    means, total = [], 0.0
    for i, value in enumerate(values):
        total += value - (values[i - window] if i >= window else 0.0)
        means.append(total / min(i + 1, window))
    return means


def nice_ticks(low: float, high: float) -> list[float]:
    """Return about `TICKS` round numbers that enclose or nearly enclose [low, high]."""
    span = (high - low) or abs(high) or 1.0
    raw = span / TICKS
    magnitude = 10 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= raw * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [float(f"{i * step:.10g}") for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return powers of ten, or of two where those are few, within and around [low, high], which are positive."""
    base = 10 if high / low >= 100 else 2
    first, last = math.floor(math.log(low, base) + 1e-9), math.ceil(math.log(high, base) - 1e-9)
    every = max(1, (last - first) // 6)
    return [float(base**power) for power in range(first, last + 1, every)]


def shown(value: float, unit: str = "") -> str:
    """Return a value as people read it."""
    if unit == "%":
        return f"{100 * value:.3g} %"
    if unit == "B":
        return amount(value, "B")
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{text} {unit}".rstrip()


def amount(value: float, unit: str) -> str:
    """Return a number with the prefix that leaves few digits."""
    for size, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"
