"""The charts of a page as one picture, for a paper's draft or a message: PNG by matplotlib."""

import io
import math
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import EngFormatter

from sclds.config.errors import UserError
from sclds.report.chart import Chart
from sclds.report.profile_page import Profile, phase_title, seconds_of

COLORS = ("#2a78d6", "#d99100", "#1a9e72", "#6a56c2", "#c2476b", "#85847c")
BEHIND = "#85847c"
MARKS = {"checkpoint": "#b4b3ab", "restart": "#c2476b", "fault": "#c2476b", "stall": "#d99100"}
STYLE: Any = {"font.size": 8, "axes.titlesize": 9, "axes.spines.top": False, "axes.spines.right": False}
COLUMNS = 3


def sheet(title: str, charts: Sequence[Chart], profiles: Sequence[Profile] = ()) -> bytes:
    """Return a PNG of charts, and of the phases of profiles.

    Raises:
        UserError: There is nothing to draw.
    """
    bars = [profile for profile in profiles if any(seconds_of(variant) for variant in profile.variants)]
    count = len(charts) + len(bars)
    if not count:
        raise UserError(
            "there is nothing to draw yet: no curve has two points, and no phase was measured; write a page"
        )
    columns = min(COLUMNS, count)
    rows = math.ceil(count / columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(
            figsize=(4.2 * columns, 2.5 * rows + 0.5), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08), dpi=130
        )
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
        axes = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
        for place, chart in zip(axes, charts, strict=False):
            _draw(place, chart)
        for place, profile in zip(axes[len(charts) :], bars, strict=False):
            _draw_phases(place, profile)
        for place in axes[count:]:
            place.set_axis_off()
        content = io.BytesIO()
        figure.savefig(content, format="png")
    return content.getvalue()


def _draw(axes: Axes, chart: Chart) -> None:
    """Draw a chart as the page has it."""
    scale = 100 if chart.unit == "%" else 1
    for number, series in enumerate(chart.front):
        color = COLORS[(number if series.place is None else series.place) % len(COLORS)]
        ys = [scale * y for y in series.ys]
        if series.means:
            axes.plot(series.xs, ys, color=color, alpha=0.28, linewidth=0.7)
            ys = [scale * y for y in series.means]
        axes.plot(
            series.xs,
            ys,
            color=color,
            linewidth=1.4,
            marker="o" if series.dots else "",
            markersize=3,
            label=series.name,
        )
    for series in chart.series:
        if series.behind:
            axes.plot(
                series.xs,
                [scale * y for y in series.ys],
                color="#85847c",
                linewidth=1,
                linestyle=":",
                label=series.name,
            )
    for level in chart.levels:
        axes.axhline(scale * level.value, color="#55544f", linewidth=0.8, linestyle="--")
        axes.annotate(
            level.name,
            (1, scale * level.value),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            fontsize=6,
        )
    for mark in chart.marks:
        axes.axvline(mark.x, ymax=0.06 if mark.kind == "checkpoint" else 1, color=MARKS[mark.kind], linewidth=0.8)
    axes.set_title(chart.title, loc="left")
    axes.set_xlabel(chart.x_name)
    axes.set_ylabel("%" if scale == 100 else chart.unit)
    if chart.unit == "B":
        axes.yaxis.set_major_formatter(EngFormatter("B"))
        axes.set_ylabel("")
    axes.set_xscale("log" if chart.log_x else "linear")
    if chart.from_zero:
        axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="#e4e3de", linewidth=0.6)
    if len(chart.series) > 1 or chart.series[0].name:
        axes.legend(frameon=False, fontsize=6)


def _draw_phases(axes: Axes, profile: Profile) -> None:
    """Draw the phases of every variant as bars on one scale."""
    known = {variant["name"]: found for variant in profile.variants if (found := seconds_of(variant))}
    names = list(dict.fromkeys(name for seconds in known.values() for name in seconds))
    left = [0.0] * len(known)
    palette = matplotlib.colormaps["tab20"]
    for number, name in enumerate(names):
        widths = [1e3 * seconds.get(name, 0.0) for seconds in known.values()]
        axes.barh(list(known), widths, left=left, color=palette(number % 20), label=phase_title(name))
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_title(f"{profile.name}: phases of a step", loc="left")
    axes.set_xlabel("ms")
    axes.legend(frameon=False, fontsize=6)
