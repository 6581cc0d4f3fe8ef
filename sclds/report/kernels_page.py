"""Kernel microbenchmarks: the share of the roofline by shape, device and provider, and what was measured where.

Read from the CSV that `kernels/benchmarks/run.py` writes. What an operation has to do at least (bytes or FLOPs) stands
beside the operation (`scl_kernels.registry`), published peaks of devices in `scl_kernels.roofline`. Where either is not
known, as on a CPU, times are held against eager code instead.
"""

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from scl_kernels.measurement import Measurement
from scl_kernels.registry import operations
from scl_kernels.roofline import DEVICES, Device
from sclds.report.chart import Chart, Level, Series, drawable, shown
from sclds.report.charts import cards
from sclds.report.parts import folded, listed, note, section, table

EAGER = "eager"
SHAPES = {"attention": "samples", "packed": "samples", "base": "samples"}
"""What x counts, by the first word of the kernel's name; rows elsewhere."""
MODE = "full"
"""Forward and backward: of what the roofline is drawn."""


@dataclass
class Kernels:
    """The rows of some CSVs."""

    files: list[Path] = field(default_factory=list)
    rows: list[Measurement] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def benchmark_files(path: Path) -> list[Path]:
    """Return the CSVs of benchmarks that a path is or holds; a folder's own summary alone where it has one."""
    found = [path] if path.is_file() else sorted(path.glob("*.csv")) if path.is_dir() else []
    found = [file for file in found if _is_benchmark(file)]
    whole = [file for file in found if file.name == "benchmarks.csv"]
    return whole or found


def _is_benchmark(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return set(Measurement._fields) <= set(file.readline().strip().split(","))
    except OSError:
        return False


def read_kernels(paths: Iterable[Path]) -> Kernels:
    """Return the rows of CSVs; lines that are cut short or damaged are counted and left out."""
    found = Kernels()
    for path in paths:
        found.files.append(path)
        damaged = 0
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            for line in csv.DictReader(file):
                row = _measurement(line)
                damaged += row is None
                found.rows += [row] if row is not None else []
        if damaged:
            found.problems.append(f"{path.name}: {damaged} damaged line{'s are' if damaged > 1 else ' is'} left out")
    return found


def _measurement(line: dict[str, Any]) -> Measurement | None:
    try:
        found = Measurement.of_line(line)
        return found if found.shape is not None else None
    except (KeyError, TypeError, ValueError):
        return None


def kernels_section(found: Kernels) -> str:
    """Return the section of measured kernels."""
    if not found.rows:
        return section("Roofline of kernels", listed(found.problems) + note("The CSV holds no measurement yet."))
    charts = kernel_charts(found)
    said = (
        "Share of the device's published peak that forward and backward together reach, by shape: the bytes or FLOPs "
        "that an operation needs at least over the time that it took. Where no peak is stored for the device, or what "
        "is needed at least is not counted for the operation: times as fast as eager PyTorch."
    )
    return section(
        "Roofline of kernels",
        listed(found.problems) + note(said) + cards(charts) + _measured(found.rows) + _all_rows(found.rows),
    )


def kernel_charts(found: Kernels) -> list[Chart]:
    """Return a chart per kernel: the share of the roofline where it is known, else the speed against eager code."""
    work = {operation.name: operation.work for operation in operations()}
    rows = [row for row in found.rows if (row.mode, row.metric) == (MODE, "milliseconds") and row.median > 0]
    several = len({row.device for row in rows}) > 1
    charts = []
    for kernel in dict.fromkeys(row.kernel for row in rows):
        of_kernel = [row for row in rows if row.kernel == kernel]
        x_name = SHAPES.get(kernel.split("_")[0], "rows")
        shares = _curves(of_kernel, lambda row: share_of_roofline(row, work.get(row.kernel)), several)
        title = kernel.replace("_", " ").capitalize()
        if any(series.xs for series in shares):
            level = (Level("roofline", 1.0),)
            charts.append(
                Chart(f"{title}: of the roofline", tuple(shares), level, (), x_name, "%", log_x=True, from_zero=True)
            )
            continue
        eager = {(row.device, row.x): row.median for row in of_kernel if row.provider == EAGER}
        others = [row for row in of_kernel if row.provider != EAGER]
        against = _curves(others, partial(_against, eager), several)
        level = (Level("eager", 1.0),)
        charts.append(
            Chart(f"{title}: against eager", tuple(against), level, (), x_name, "×", log_x=True, from_zero=True)
        )
    return drawable(charts)


def _curves(rows: Sequence[Measurement], value: Callable[[Measurement], float | None], several: bool) -> list[Series]:
    """Return a curve per provider, and per device where there are several; points are medians of what was measured."""
    series = []
    for provider, device in dict.fromkeys((row.provider, row.device) for row in rows):
        points = {
            row.x: found for row in rows if (row.provider, row.device) == (provider, device) and (found := value(row))
        }
        name = f"{provider}, {device}" if several else provider
        xs = tuple(float(x) for x in sorted(points))
        series.append(Series(name, xs, tuple(points[int(x)] for x in xs), dots=True))
    return series


def share_of_roofline(row: Measurement, work: Callable[..., Any] | None) -> float | None:
    """Return which share of its device's peak a row reaches; None where peak or work are not known."""
    device = device_of(row.device)
    if device is None or work is None:
        return None
    try:
        needed = work(row.x, row.shape, row.mode)
    except (KeyError, TypeError, ValueError):  # a CSV of another version
        return None
    if needed is None:
        return None
    peak = {"bytes": device.bytes_per_second, "FLOPs": device.flops}[needed.unit]
    return float(needed.amount / peak / (row.median / 1e3))


def device_of(name: str) -> Device | None:
    """Return the published peaks of the device that a CSV names."""
    return next((device for device in DEVICES.values() if device.name.split()[0].lower() in name.lower()), None)


def _against(eager: Mapping[tuple[str, int], float], row: Measurement) -> float | None:
    """Return how many times as fast as eager code on the same device and shape a row is; None where that is missing."""
    own = eager.get((row.device, row.x))
    return own / row.median if own else None


def _measured(rows: Sequence[Measurement]) -> str:
    """Return what was measured where: devices, versions, commits, and how much of what."""
    told = []
    for device, versions, commit in dict.fromkeys((row.device, row.versions, row.commit) for row in rows):
        own = [row for row in rows if (row.device, row.versions, row.commit) == (device, versions, commit)]
        peaks = device_of(device)
        known = (
            "none stored"
            if peaks is None
            else f"{peaks.bytes_per_second / 1e12:.3g} TB/s, {peaks.flops / 1e12:.0f} TFLOP/s"
        )
        kernels, providers = (dict.fromkeys(getattr(row, key) for row in own) for key in ("kernel", "provider"))
        told.append((device, [known, versions, commit, f"{len(own)}", ", ".join(kernels), ", ".join(providers)]))
    columns = ("published peaks", "versions", "commit", "rows", "kernels", "providers")
    return table("What was measured where", columns, told, kind="words")


def _all_rows(rows: Sequence[Measurement]) -> str:
    """Return every time with its quantiles and shape, folded."""
    work = {operation.name: operation.work for operation in operations()}
    told = []
    for row in rows:
        if row.metric != "milliseconds":
            continue
        share = share_of_roofline(row, work.get(row.kernel))
        shape = ", ".join(f"{key} {value}" for key, value in row.shape.items())
        spread = f"{shown(row.q20, 'ms')} to {shown(row.q80, 'ms')}"
        cells = [
            row.provider,
            row.mode,
            f"{row.x:,}",
            shown(row.median, "ms"),
            spread,
            "" if share is None else f"{share:.0%}",
        ]
        told.append((row.kernel, [*cells, shape]))
    columns = ("provider", "pass", "x", "median", "20 % to 80 %", "of roofline", "shape")
    return (
        f'<div class="more">{folded(f"All {len(told)} times", table("All times", columns, told, kind="words"))}</div>'
    )


def heading(found: Kernels) -> str:
    """Return the head of a page of kernels alone."""
    devices = ", ".join(dict.fromkeys(row.device for row in found.rows)) or "nothing measured"
    return f"<header><h1>Kernel microbenchmarks</h1><p class=lead>{escape(devices)}</p></header>"
