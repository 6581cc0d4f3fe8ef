"""Plots out of the CSV alone: `python kernels/benchmarks/plot.py benchmarks.csv`."""

import csv
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

X_AXIS = {"attention": "samples", "packed": "samples"}
"""What x counts, by the first word of the kernel's name; rows elsewhere."""


def draw(path: Path) -> list[Path]:
    """Write one image per kernel, mode and metric beside the CSV and return their paths.

    Args:
        path: A CSV that `run.py` wrote.
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    groups: dict[tuple[str, str, str], list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        groups[row["kernel"], row["mode"], row["metric"]].append(row)
    written = []
    for (kernel, mode, metric), group in groups.items():
        figure, axes = plt.subplots(figsize=(5, 3.5), layout="constrained")
        for provider in dict.fromkeys(row["provider"] for row in group):
            points = sorted((row for row in group if row["provider"] == provider), key=lambda row: int(row["x"]))
            x = [int(row["x"]) for row in points]
            axes.plot(x, [float(row["median"]) for row in points], marker="o", label=provider)
            axes.fill_between(x, *([float(row[q]) for row in points] for q in ("q20", "q80")), alpha=0.2)
        axes.set(
            xscale="log", yscale="log", xlabel=X_AXIS.get(kernel.split("_")[0], "rows"), ylabel=metric.replace("_", " ")
        )
        axes.set_title(f"{kernel}, {mode}: {group[0]['device']}", fontsize=9)
        axes.legend()
        written.append(path.with_name(f"{kernel}_{mode}_{metric}.png"))
        figure.savefig(written[-1], dpi=120)
        plt.close(figure)
    return written


if __name__ == "__main__":
    for image in draw(Path(sys.argv[1])):
        print(image)
