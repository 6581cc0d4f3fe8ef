"""`sclds benchmark checkpoint`: how long a checkpoint holds up the run, on this machine."""

from pathlib import Path

import click

from sclds.cli.arguments import FILE, Whole
from sclds.cli.command import Command


@click.command("checkpoint", cls=Command)
@click.option("--width", type=Whole(64, 4096), default=512, help="channels of the model, a multiple of 64")
@click.option("--rounds", type=Whole(1, 1000), default=5, help="timed checkpoints of each way")
@click.option(
    "--out", type=FILE, default="benchmarks", metavar="FOLDER", help="folder for checkpoint.csv, on the disk to measure"
)
def command(width: int, rounds: int, out: Path) -> None:
    """Measure how long a checkpoint holds up the run.

    Written before the next step, as DeepSpeed does it, and written by another process while steps go on.
    """
    from sclds.benchmarks.checkpoint import compare_savings
    from sclds.config.errors import UserError

    if width % 64:
        raise UserError(f"--width {width} is not a multiple of 64; give {width // 64 * 64}")
    rows, size = compare_savings(width, rounds, out)
    print(f"{size / 1e6:,.0f} MB of weights and optimizer state on {rows[0].device}, {rows[0].versions}")
    for row in rows:
        unit = " %" if row.metric == "share_of_stall" else " s"
        median, low, high = (100 * v if unit == " %" else v for v in (row.median, row.q20, row.q80))
        print(f"{row.provider:14s}{row.metric:18s}{median:8.2f}{unit} (20/80 %: {low:.2f} to {high:.2f})")
    print(f"written to {out / 'checkpoint.csv'} and checkpoint.png")
