"""`sclds benchmark step`: the packed step beside the published schedule, on this machine."""

from pathlib import Path

import click

from sclds.cli.arguments import FILE, Whole
from sclds.cli.command import Command, Constant


def _size(name: str) -> Constant:
    return Constant("sclds.benchmarks.step", "MID_SIZE", name)


@click.command("step", cls=Command)
@click.option("--rounds", type=Whole(1, 10_000), default=10, help="timed steps of each")
@click.option("--batch", type=Whole(2, 4096), default=_size("batch"), help="samples per step")
@click.option("--width", type=Whole(1, 4096), default=_size("width"), help="channels, a multiple of 64")
@click.option(
    "--image-size",
    type=Whole(32, 1024),
    default=_size("image_size"),
    help="side of an image in pixels, a multiple of 16; 288 is the base model's",
)
@click.option("--out", type=FILE, default="benchmarks", metavar="FOLDER", help="folder for step.csv and step.png")
def command(rounds: int, batch: int, width: int, image_size: int, out: Path) -> None:
    """Measure the speed of one optimizer step beside the published schedule."""
    from sclds.benchmarks.step import compare_steps

    rows = compare_steps(rounds, batch, width, image_size, out)
    print(f"forward + backward + optimizer step on {rows[0].device}, {rows[0].versions}")
    for row in rows:
        unit = "×" if row.metric == "ratio" else " samples/s"
        print(f"{row.provider:18s}{row.median:8.2f}{unit} (20/80 %: {row.q20:.2f} to {row.q80:.2f})")
    print(f"written to {out / 'step.csv'} and step.png")
