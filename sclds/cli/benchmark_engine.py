"""`sclds benchmark engine`: what ZeRO's stages take on the host, beside torch alone."""

from pathlib import Path

import click

from sclds.cli.arguments import FILE, Whole
from sclds.cli.command import Command


@click.command("engine", cls=Command)
@click.option("--rounds", type=Whole(1, 10_000), default=20, help="timed steps of each")
@click.option("--processes", type=Whole(1, 64), default=1, help="processes of this machine")
@click.option("--out", type=FILE, default="benchmarks", metavar="FOLDER", help="folder for engine.csv and engine.png")
def command(rounds: int, processes: int, out: Path) -> None:
    """Measure what ZeRO's stages take on the host beside torch alone, and count their messages.

    The model has the base model's depth and a width of 64.
    """
    from sclds.benchmarks.engine import compare_stages, tables

    rows = compare_stages(rounds, processes, out)
    print(f"{tables(rows)}\nwritten to {out / 'engine.csv'} and engine.png")
