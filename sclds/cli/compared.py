"""What the commands share that train in several ways and compare retrieval."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sclds.cli.arguments import FILE, Several, Whole, configured

if TYPE_CHECKING:
    from sclds.benchmarks.comparison import Comparison


def compared(name: str, seeds: tuple[int, ...]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare the options of a comparison.

    Args:
        name: Of the comparison, and of its folder.
        seeds: By default.
    """
    options = (
        click.option("--steps", type=Whole(), show_default="schedule.steps", help="optimizer steps at equal steps"),
        click.option("--seeds", cls=Several, type=Whole(0, 2**63 - 1), default=seeds, help="seeds of each way"),
        click.option("--processes", type=Whole(1, 64), default=2, help="processes of each run"),
        click.option(
            *("--out",), type=FILE, default=f"benchmarks/{name}", metavar="FOLDER", help="folder for runs, CSV and plot"
        ),
    )

    def declare(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return configured(command)

    return declare


def run_comparison(
    comparison: "Comparison",
    config: str,
    overrides: tuple[str, ...],
    steps: int | None,
    seeds: tuple[int, ...],
    processes: int,
    out: Path,
) -> None:
    """Compare, and print the tables."""
    from sclds.benchmarks.comparison import Given, compare, table, tests
    from sclds.cli.printing import say

    found = compare(comparison, Given(Path(config), list(overrides), processes, out, say), steps, list(seeds))
    print(f"{table(comparison, found)}\n\n{tests(comparison, found)}\n")
    print(f"written to {out / comparison.name}.csv and .png")
