"""`sclds benchmark economy`: held-out retrieval of the exact and the economy mode."""

from pathlib import Path

import click

from sclds.cli.arguments import FILE, Several, Whole, configured
from sclds.cli.command import Command


@click.command("economy", cls=Command)
@configured
@click.option("--steps", type=Whole(), show_default="schedule.steps", help="optimizer steps at equal steps")
@click.option("--seeds", cls=Several, type=Whole(0, 2**63 - 1), default=(0, 1, 2), help="seeds, three runs each")
@click.option("--processes", type=Whole(1, 64), default=2, help="processes of each run")
@click.option("--out", type=FILE, default="benchmarks/economy", metavar="FOLDER", help="folder for runs, CSV and plot")
def command(
    config: str, overrides: tuple[str, ...], steps: int | None, seeds: tuple[int, ...], processes: int, out: Path
) -> None:
    """Compare retrieval after training in the exact and the economy mode, at equal steps and equal time.

    Runs that are done already are not run again.
    """
    from sclds.benchmarks.economy import compare, table
    from sclds.cli.printing import say

    found = compare(Path(config), list(overrides), steps, list(seeds), processes, out, say)
    print(f"{table(found)}\nwritten to {out / 'economy.csv'} and economy.png")
