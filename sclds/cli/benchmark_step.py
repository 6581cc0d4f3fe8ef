"""`sclds benchmark step`: the packed step beside the published schedule, on this machine."""

import argparse
from pathlib import Path

from sclds.benchmarks.step import MID_SIZE, compare_steps


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--rounds", type=int, default=10, help="timed steps of each (default 10)")
    parser.add_argument("--batch", type=int, default=MID_SIZE["batch"], help="samples per step (default %(default)s)")
    parser.add_argument("--width", type=int, default=MID_SIZE["width"], help="channels (default %(default)s)")
    parser.add_argument(
        "--image-size",
        type=int,
        default=MID_SIZE["image_size"],
        help="side of an image in pixels, a multiple of 16 (default %(default)s; 288 is the base model's)",
    )
    parser.add_argument("--out", default="benchmarks", metavar="FOLDER", help="for step.csv and step.png")


def run(arguments: argparse.Namespace) -> int:
    """Measure, print a line per provider and the ratio, and write them down; returns the exit code."""
    out = Path(arguments.out)
    rows = compare_steps(arguments.rounds, arguments.batch, arguments.width, arguments.image_size, out)
    print(f"forward + backward + optimizer step on {rows[0].device}, {rows[0].versions}")
    for row in rows:
        unit = "×" if row.metric == "ratio" else " samples/s"
        print(f"{row.provider:18s}{row.median:8.2f}{unit} (20/80 %: {row.q20:.2f} to {row.q80:.2f})")
    print(f"written to {out / 'step.csv'} and step.png")
    return 0
