"""`sclds benchmark bookkeeping`: processor time of what every rank computes about all others."""

from pathlib import Path

import click

from sclds.cli.arguments import FILE, Whole
from sclds.cli.command import Command

_LEAST = 524_288
"""Samples of a step of the largest world: an epoch has one, at least."""


@click.command("bookkeeping", cls=Command)
@click.option(
    "--samples", type=Whole(_LEAST), default=10_000_000, help="samples of the data, simulated in shards of 10,000"
)
@click.option("--out", type=FILE, default="benchmarks", metavar="FOLDER", help="folder for bookkeeping.csv")
def command(samples: int, out: Path) -> None:
    """Measure the processor time of a step's bookkeeping for many ranks, simulated in one process.

    That is where the rows of all ranks lie in the gathered features, as many of each rank or not, and which samples of
    the step are the rank's own, 32 each: on average, in a step that shuffles the block of shards in which they lie, and
    in the one in which an epoch begins. The loader lists them ahead of the step, beside a GPU in its own process.
    """
    from sclds.benchmarks.bookkeeping import compare_worlds
    from sclds.cli.printing import Sheet

    rows = compare_worlds(samples, out)
    sheet = Sheet()
    sheet.table(
        ("ranks", "gather, ms", "unequal ranks, ms", "own samples, ms", "shuffled, ms", "new epoch, ms"),
        [(f"{row.ranks:,}", *(f"{figure:.3f}" for figure in row[1:])) for row in rows],
        title=f"Processor time of a step, {samples:,} samples",
        right=True,
    )
    sheet.text("The last three are the loader's work, ahead of the step, and beside a GPU in a process of its own.")
    print(f"written to {out / 'bookkeeping.csv'}")
