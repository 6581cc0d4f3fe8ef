"""`sclds benchmark guards`: what everything that watches a run takes of a step, on this machine."""

from pathlib import Path

import click

from sclds.cli.arguments import FILE, Whole
from sclds.cli.command import Command


@click.command("guards", cls=Command)
@click.option("--rounds", type=Whole(1, 10_000), default=20, help="timed steps of each")
@click.option("--image-size", type=Whole(16, 4096), default=288, help="side of an image in pixels")
@click.option("--samples", type=Whole(16, 65_536), default=32, help="samples of a step")
@click.option("--out", type=FILE, default="benchmarks", metavar="FOLDER", help="folder for guards.csv and guards.png")
def command(rounds: int, image_size: int, samples: int, out: Path) -> None:
    """Measure what all that watches a run takes of a step.

    Checks of samples and of bits, limits, signs of life, the lease, the manifest; with and without, in turns, on the
    quickstart's model and data. Images are as large as the published recipe has them; --image-size 64 --samples 128 is
    the quickstart itself.
    """
    from sclds.benchmarks.guards import compare_guards

    rows = compare_guards(rounds, out, image_size, samples)
    print(f"the quickstart's step on {rows[0].device}, {rows[0].versions}")
    for row in rows:
        unit, scale = {"step_seconds": (" ms", 1e3), "ratio": ("", 1.0), "share_of_step": (" %", 100.0)}[row.metric]
        median, low, high = (scale * value for value in (row.median, row.q20, row.q80))
        print(f"{row.provider:26s}{median:9.3f}{unit} (20/80 %: {low:.3f} to {high:.3f})")
    print(f"written to {out / 'guards.csv'} and guards.png")
