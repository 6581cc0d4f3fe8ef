"""`sclds benchmark data`: reading and decoding beside Pillow in a torch DataLoader, on the same cores."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sclds.cli.arguments import FILE, Whole
from sclds.cli.command import Command

if TYPE_CHECKING:
    from sclds.benchmarks.data import Found
    from sclds.benchmarks.rows import Row


@click.command("data", cls=Command)
@click.option("--rounds", type=Whole(1, 1000), default=5, help="timed turns of each side")
@click.option("--batches", type=Whole(1, 100_000), default=16, help="batches of a turn")
@click.option("--batch", type=Whole(8, 8192), default=64, help="images of a batch, a multiple of 8")
@click.option("--cores", type=Whole(), show_default="all", help="cores, workers and decode threads")
@click.option("--samples", type=Whole(10, 100_000_000), default=20_000, help="samples to watch the memory for")
@click.option("--out", type=FILE, default="benchmarks", metavar="FOLDER", help="folder for data.csv and data.png")
def command(rounds: int, batches: int, batch: int, cores: int | None, samples: int, out: Path) -> None:
    """Measure reading and decoding beside Pillow in a torch DataLoader."""
    from sclds.benchmarks.data import Sizes, compare_reading

    _print(compare_reading(Sizes(rounds, batches, batch, cores or 0, samples), out), samples)
    print(f"written to {out / 'data.csv'} and data.png")


def _print(found: "Found", samples: int) -> None:
    from sclds.benchmarks.data import cores_per_gpu, planned_pace
    from sclds.benchmarks.loader_cost import told
    from sclds.benchmarks.photographs import HEIGHT, WIDTH

    size, cores = f"{WIDTH} × {HEIGHT} JPEG of {found.mean_bytes / 1e3:.0f} kB", found.cores
    print(f"{size} to 288 pixels on {cores} cores, {found.rows[0].versions}")
    for row in found.rows:
        if "images_per" in row.metric:
            print(_line(row))
    print(f"text, masks and packing take {found.text_share:.1%} of reading and decoding")
    print(
        f"the whole loader: {found.loader_rate:.0f} samples/s; over {samples} samples {found.resident / 1e6:.0f} MB "
        f"resident, {found.growth / 1e6:+.1f} MB at most after the first tenth"
    )
    print("\n".join(cores_per_gpu(found.stages)))
    print(told(found.host, found.stages.decode, planned_pace("h100")))


def _line(row: "Row") -> str:
    unit = "×" if row.metric.startswith("ratio") else " "
    spread = f"(20/80 %: {row.q20:.2f} to {row.q80:.2f})"
    return f"{row.provider:12s}{row.metric.replace('_', ' '):38s}{row.median:8.2f}{unit} {spread}"
