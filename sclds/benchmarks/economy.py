"""Held-out retrieval of the exact and the economy mode, at equal steps and at equal time.

Three runs a seed through the real launcher: both modes for the same number of steps, then the economy mode for as many
more steps as its shorter step allows in the time of the exact mode. The ratio of step times is the median over seeds of
what these very runs took, which follow each other so that they see the same machine. A run that is done is not run
again, and one that was stopped goes on.
"""

import csv
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sclds.config import Config
from sclds.config.errors import UserError
from sclds.config.overrides import replaced
from sclds.config.reading import load_config
from sclds.run.folder import RunFolder
from sclds.run.metrics import read_metrics
from sclds.train.launch import pretrain

MLM_VIEWS = {"exact": "t1", "economy": "t2"}
"""Mode → `losses.mlm_view`."""
COLORS = {"exact": "#2a78d6", "economy, equal steps": "#1a9e72", "economy, equal time": "#d99100"}


@dataclass(frozen=True)
class Measured:
    """What one run found."""

    way: str
    """A key of `COLORS`."""
    seed: int
    steps: int
    seconds_per_step: float
    """Median over the logged steps."""
    retrieval: dict[str, dict[str, float]]
    """Per `kind direction`: n, r1, r5, r10, median_rank, chance_r10."""


def compare(
    path: Path,
    overrides: list[str],
    steps: int | None,
    seeds: list[int],
    processes: int,
    folder: Path,
    say: Callable[[str], None],
) -> list[Measured]:
    """Run whatever is not done yet, return what every run found, and write economy.csv and economy.png.

    Args:
        path: YAML file, or the name of a shipped configuration.
        overrides: `key=value` settings over it.
        steps: At equal steps; None takes the configuration's.
        seeds: Three runs each.
        processes: Of each run.
        folder: For the runs and the files.
        say: Is told what runs next.

    Raises:
        UserError: If a number makes no comparison, or a run fails.
    """
    if processes < 1 or (steps is not None and steps < 1):
        raise UserError("give --processes and --steps of at least 1")
    config = load_config(path, overrides)
    _check(config, seeds)
    steps = steps or config.schedule.steps

    def run(way: str, mode: str, seed: int, count: int) -> Measured:
        say(f"{_name(mode, count, seed)}: {way}, {count} steps …")
        return _run(way, mode, seed, count, (path, overrides, processes, folder))

    equal_steps = [
        run(mode if mode == "exact" else "economy, equal steps", mode, seed, steps)
        for seed in seeds
        for mode in MLM_VIEWS
    ]
    pairs = zip(equal_steps[::2], equal_steps[1::2], strict=True)
    ratio = statistics.median(exact.seconds_per_step / economy.seconds_per_step for exact, economy in pairs)
    more = max(1, round(steps * ratio))
    found = equal_steps + [run("economy, equal time", "economy", seed, more) for seed in seeds]
    write(found, folder)
    return found


def _check(config: Config, seeds: list[int]) -> None:
    if len(set(seeds)) != len(seeds):
        raise UserError("--seeds names a seed twice; give different ones")
    if not config.data.heldout:
        raise UserError("data.heldout is empty, so there is no retrieval to compare; name held-out sets")
    if config.losses.mlm == 0 or config.losses.mlsc == 0:
        raise UserError("the modes differ where MLM and MLSC are both in use; give losses.mlm and losses.mlsc weights")


def _name(mode: str, steps: int, seed: int) -> str:
    return f"{mode}-{steps}-seed{seed}"


def _run(way: str, mode: str, seed: int, steps: int, given: tuple[Path, list[str], int, Path]) -> Measured:
    """Train in one way, unless that is done, and read what it found."""
    path, overrides, processes, root = given
    name = _name(mode, steps, seed)
    folder = RunFolder(root / name)
    settings = [
        *(f"run_dir={folder.root.resolve()}", f"losses.mlm_view={MLM_VIEWS[mode]}"),
        *(f"schedule.steps={steps}", f"seed={seed}"),
    ]
    pretrain(name, path, replaced(overrides, settings), processes)
    seconds = statistics.median(line["seconds"]["total"] for line in read_metrics(folder.metrics))
    problems: list[str] = []
    results = folder.read_results(problems)
    if "retrieval" not in results:
        raise UserError(f"{folder.results} has no retrieval to compare ({'; '.join(problems) or 'not measured'})")
    retrieval = {
        f"{kind} {direction}": figures
        for kind, directions in results["retrieval"].items()
        for direction, figures in directions.items()
    }
    return Measured(way, seed, steps, seconds, retrieval)


def write(found: list[Measured], folder: Path) -> None:
    """Write `economy.csv`, a line per run and figure, and `economy.png` out of the same."""
    with (folder / "economy.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("way", "seed", "steps", "seconds_per_step", "retrieval", "metric", "value"))
        for m in found:
            for what, figures in m.retrieval.items():
                for metric, value in figures.items():
                    writer.writerow((m.way, m.seed, m.steps, m.seconds_per_step, what, metric, value))
    _plot(found, folder / "economy.png")


def _plot(found: list[Measured], file: Path) -> None:
    """Draw the mean R@10 as bars, every seed as a point, and chance as a line."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    kinds = list(found[0].retrieval)
    figure, axes = plt.subplots(figsize=(2.4 * len(kinds), 2.8), layout="constrained")
    for number, (way, color) in enumerate(COLORS.items()):
        for place, kind in enumerate(kinds):
            values = [m.retrieval[kind]["r10"] for m in found if m.way == way]
            x = place + (number - 1) * 0.27
            axes.bar(x, statistics.mean(values), 0.24, color=color, label=way if place == 0 else None)
            axes.scatter([x] * len(values), values, s=10, color="#111110", zorder=3)
    for place, kind in enumerate(kinds):
        chance = found[0].retrieval[kind]["chance_r10"]
        axes.hlines(chance, place - 0.4, place + 0.4, color="#55544f", linestyle=":")
    axes.set_xticks(range(len(kinds)), [k.replace(" ", "\n").replace("_", " ") for k in kinds], fontsize=8)
    axes.set(ylabel="R@10 (dotted: chance)")
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=150)
    plt.close(figure)


def table(found: list[Measured]) -> str:
    """Return the means over seeds as a Markdown table, with the smallest and largest R@10 of a seed."""
    kinds = list(found[0].retrieval)
    lines = [
        " | ".join(["| R@10, mean (least to most of a seed)", "steps", "s a step", *kinds]) + " |",
        "|---" * (3 + len(kinds)) + "|",
    ]
    for way in COLORS:
        runs = [m for m in found if m.way == way]
        cells = [way, str(runs[0].steps), f"{statistics.median(m.seconds_per_step for m in runs):.2f}"]
        for kind in kinds:
            values = [m.retrieval[kind]["r10"] for m in runs]
            cells.append(f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
