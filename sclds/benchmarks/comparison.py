"""Held-out retrieval after training in several ways, at equal steps and at equal time, over seeds.

Every way is trained for the same number of steps, through the real launcher; then every way but the one that sets the
time for as many steps as fit into that one's. How long a step takes is what these very runs took: the ratio of two ways
is the median over seeds, whose runs follow each other, so that they see the same machine. A run that is done is not run
again, and one that was stopped goes on.
"""

import csv
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sclds.benchmarks.significance import holm, paired
from sclds.config import Config
from sclds.config.errors import UserError
from sclds.config.overrides import replaced
from sclds.config.reading import load_config
from sclds.run.folder import RunFolder
from sclds.run.metrics import read_metrics
from sclds.train.launch import pretrain

BUDGETS = STEPS, TIME = ("equal steps", "equal time")
"""Every way is trained at the first; at the second, all but the one that sets the time."""


@dataclass(frozen=True)
class Way:
    """One way of training."""

    name: str
    """What people read, and the key of its rows in the CSV."""
    folder: str
    """What the folders of its runs begin with."""
    settings: tuple[str, ...]
    """`key=value` over the configuration."""
    color: str


@dataclass(frozen=True)
class Comparison:
    """What is compared."""

    name: str
    """Of the files."""
    ways: tuple[Way, ...]
    """In the order of the table."""
    clock: str
    """Name of the way whose time the others get at equal time."""
    tested: tuple[tuple[str, str], ...]
    """Pairs of ways (one, other) of which it is tested whether they differ, at either budget."""
    problems: Callable[[Config], list[str]]
    """Says what of a configuration makes no comparison."""


@dataclass(frozen=True)
class Measured:
    """What one run found."""

    way: str
    budget: str
    """One of `BUDGETS`."""
    seed: int
    steps: int
    seconds_per_step: float
    """Median over the logged steps."""
    retrieval: dict[str, dict[str, float]]
    """Per `kind direction`: n, r1, r5, r10, median_rank, chance_r10."""
    losses: dict[str, float]
    """Held-out losses, as `initial TERM` and `final TERM`."""


@dataclass(frozen=True)
class Given:
    """What all runs of a comparison share."""

    config: Path
    overrides: list[str]
    processes: int
    folder: Path
    say: Callable[[str], None]


def compare(comparison: Comparison, given: Given, steps: int | None, seeds: list[int]) -> list[Measured]:
    """Run whatever is not done yet, write `NAME.csv` and `NAME.png`, and return what every run found.

    Args:
        comparison: The ways.
        given: Configuration, processes, and the folder for runs and files.
        steps: At equal steps; None takes the configuration's.
        seeds: Every way is trained once, or twice, with each.

    Raises:
        UserError: If a number makes no comparison, or a run fails.
    """
    if given.processes < 1 or (steps is not None and steps < 1):
        raise UserError("give --processes and --steps of at least 1")
    if len(set(seeds)) != len(seeds):
        raise UserError("--seeds names a seed twice; give different ones")
    config = load_config(given.config, given.overrides)
    if not config.data.heldout:
        raise UserError("data.heldout is empty, so there is no retrieval to compare; name held-out sets")
    problems = comparison.problems(config)
    if problems:
        raise UserError("; ".join(problems))
    steps = steps or config.schedule.steps
    found = [_run(way, STEPS, seed, steps, given) for seed in seeds for way in comparison.ways]
    write(comparison, found, given.folder)
    for way in comparison.ways:
        if way.name != comparison.clock:
            more = max(1, round(steps * _ratio(found, comparison.clock, way.name)))
            found += [_run(way, TIME, seed, more, given) for seed in seeds]
            write(comparison, found, given.folder)
    return found


def _ratio(found: Sequence[Measured], clock: str, way: str) -> float:
    """Return how many steps of a way fit into the time of one of the clock's: the median over seeds."""
    pace = {(m.way, m.seed): m.seconds_per_step for m in found if m.budget == STEPS}
    return statistics.median(pace[clock, seed] / pace[way, seed] for name, seed in pace if name == way)


def _run(way: Way, budget: str, seed: int, steps: int, given: Given) -> Measured:
    """Train in one way, unless that is done, and read what it found."""
    name = f"{way.folder}-{steps}-seed{seed}"
    given.say(f"{name}: {way.name}, {budget}, {steps} steps …")
    folder = RunFolder(given.folder / name)
    settings = [f"run_dir={folder.root.resolve()}", *way.settings, f"schedule.steps={steps}", f"seed={seed}"]
    pretrain(name, given.config, replaced(given.overrides, settings), given.processes)
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
    losses = {
        f"{when} {term}": value for when, terms in results.get("losses", {}).items() for term, value in terms.items()
    }
    return Measured(way.name, budget, seed, steps, seconds, retrieval, losses)


def over_chance(one: Measured) -> float:
    """Return R@10 over its chance, the mean of all kinds and directions of a run."""
    return statistics.mean(figures["r10"] / figures["chance_r10"] for figures in one.retrieval.values())


def write(comparison: Comparison, found: Sequence[Measured], folder: Path) -> None:
    """Write `NAME.csv`, a line per run and figure, and `NAME.png` out of the same."""
    with (folder / f"{comparison.name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("way", "budget", "seed", "steps", "seconds_per_step", "measured", "metric", "value"))
        for m in found:
            run = (m.way, m.budget, m.seed, m.steps, m.seconds_per_step)
            for what, figures in m.retrieval.items():
                writer.writerows((*run, what, metric, value) for metric, value in figures.items())
            writer.writerows((*run, "heldout loss", term, value) for term, value in m.losses.items())
    _plot(comparison, found, folder / f"{comparison.name}.png")


def _plot(comparison: Comparison, found: Sequence[Measured], file: Path) -> None:
    """Draw the mean R@10 as bars, every seed as a point, and chance as a line; equal time is hatched."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    kinds = list(found[0].retrieval)
    rows = [(way, budget) for way in comparison.ways for budget in BUDGETS if _of(found, way.name, budget)]
    width = 0.84 / len(rows)
    figure, axes = plt.subplots(figsize=(2.4 * len(kinds), 2.8), layout="constrained")
    for number, (way, budget) in enumerate(rows):
        runs, hatch = _of(found, way.name, budget), "////" if budget == TIME else None
        for place, kind in enumerate(kinds):
            values = [m.retrieval[kind]["r10"] for m in runs]
            x = place + (number - (len(rows) - 1) / 2) * width
            label = f"{way.name}, {budget}" if place == 0 else None
            mean = statistics.mean(values)
            axes.bar(x, mean, 0.9 * width, color=way.color, hatch=hatch, edgecolor="#ffffff", linewidth=0, label=label)
            axes.scatter([x] * len(values), values, s=6, color="#111110", zorder=3)
    for place, kind in enumerate(kinds):
        chance = found[0].retrieval[kind]["chance_r10"]
        axes.hlines(chance, place - 0.45, place + 0.45, color="#55544f", linestyle=":")
    axes.set_xticks(range(len(kinds)), [k.replace(" ", "\n").replace("_", " ") for k in kinds], fontsize=8)
    axes.set(ylabel="R@10 (dotted: chance)")
    axes.legend(fontsize=6, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=150)
    plt.close(figure)


def _of(found: Sequence[Measured], way: str, budget: str) -> list[Measured]:
    """Return the runs of a way at a budget, in the order of seeds."""
    return sorted((m for m in found if m.way == way and m.budget == budget), key=lambda m: m.seed)


def table(comparison: Comparison, found: Sequence[Measured]) -> str:
    """Return means and standard deviations over seeds as a Markdown table."""
    kinds = list(found[0].retrieval)
    count = len({m.seed for m in found})
    title = f"| R@10, mean ± standard deviation of {count} seed{'s' if count > 1 else ''}"
    lines = [
        " | ".join([title, "steps", "s a step", *kinds, "times chance"]) + " |",
        "|---" * (4 + len(kinds)) + "|",
    ]
    for way in comparison.ways:
        for budget in BUDGETS:
            runs = _of(found, way.name, budget)
            if not runs:
                continue
            pace = statistics.median(m.seconds_per_step for m in runs)
            cells = [f"{way.name}, {budget}", str(runs[0].steps), f"{pace:.2f}"]
            cells += [_spread([m.retrieval[kind]["r10"] for m in runs], 3) for kind in kinds]
            lines.append("| " + " | ".join([*cells, _spread([over_chance(m) for m in runs], 1)]) + " |")
    return "\n".join(lines)


def _spread(values: list[float], digits: int) -> str:
    if len(values) < 2:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def tests(comparison: Comparison, found: Sequence[Measured]) -> str:
    """Return a Markdown table of the differences that `comparison.tested` names, with their significance.

    What is tested is R@10 in times of chance, the mean of all kinds and directions, paired by seed: one test a
    difference. p is Holm's over all of them.
    """
    rows = []
    for one, other in comparison.tested:
        for budget in BUDGETS:
            # the way that sets the time has its runs at equal steps
            runs = [_of(found, name, budget) or _of(found, name, STEPS) for name in (one, other)]
            if all(runs) and (budget == STEPS or any(m.budget == budget for side in runs for m in side)):
                difference = [over_chance(a) - over_chance(b) for a, b in zip(*runs, strict=True)]
                rows.append((f"{one} against {other}, {budget}", paired(difference)))
    lines = ["| times chance, paired by seed | difference | 95 % interval | p | significant |", "|---|---|---|---|---|"]
    adjusted = holm([result.p for _, result in rows])
    for (name, result), p in zip(rows, adjusted, strict=True):
        known = math.isfinite(p)
        interval = f"{result.low:+.2f} to {result.high:+.2f}" if known else "one seed has none"
        verdict = ("yes" if p < 0.05 else "not shown") if known else "not shown"
        lines.append(f"| {name} | {result.mean:+.2f} | {interval} | {f'{p:.3f}' if known else '–'} | {verdict} |")
    return "\n".join(lines)
