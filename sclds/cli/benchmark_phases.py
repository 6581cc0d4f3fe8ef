"""`sclds benchmark phases`: what it takes of a step to measure its phases."""

from pathlib import Path

import click

from sclds.cli.arguments import FILE, Whole
from sclds.cli.command import Command


@click.command("phases", cls=Command)
@click.option("--rounds", type=Whole(1, 10_000), default=20, help="timed steps of each")
@click.option("--out", type=FILE, default="benchmarks", metavar="FOLDER", help="folder for phases.csv and phases.png")
def command(rounds: int, out: Path) -> None:
    """Measure what it takes of a step to measure its phases.

    The model has the base model's depth and a width of 64.
    """
    from sclds.benchmarks.phase_clock import compare

    for row in compare(rounds, out):
        print(f"{row.provider:15s}{row.median:.4g} {row.metric} (20/80 %: {row.q20:.4g} to {row.q80:.4g})")
    print(f"written to {out / 'phases.csv'} and phases.png")
