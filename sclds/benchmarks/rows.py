"""What `sclds benchmark` writes down, whatever it measured: one long CSV, and a plot out of the same rows."""

import csv
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Row(NamedTuple):
    """One line of the CSV."""

    provider: str
    metric: str
    median: float
    q20: float
    q80: float
    runs: int
    config: str
    """JSON."""
    device: str
    versions: str


def quantiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return median, 20 % and 80 % quantile."""
    low, high = np.quantile(values, (0.2, 0.8))
    return statistics.median(values), float(low), float(high)


def write(rows: list[Row], folder: Path, name: str, title: str) -> None:
    """Write `NAME.csv`, and `NAME.png` with a bar for each row of the first metric.

    Args:
        rows: What was measured.
        folder: Made if it is not there.
        name: Of the files.
        title: Of the plot.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Row._fields)
        writer.writerows(rows)
    bars = [row for row in rows if row.metric == rows[0].metric]
    figure, axes = plt.subplots(figsize=(5, 2), layout="constrained")
    spread = [[r.median - r.q20 for r in bars], [r.q80 - r.median for r in bars]]
    axes.barh(
        [r.provider for r in bars], [r.median for r in bars], xerr=spread, color=["#2a78d6", "#b4b3ab"], height=0.55
    )
    axes.invert_yaxis()
    axes.set(xlabel=f"{rows[0].metric.replace('_', ' ')} (median, 20/80 quantiles)")
    axes.set_title(title, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(folder / f"{name}.png", dpi=150)
    plt.close(figure)
