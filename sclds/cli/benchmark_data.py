"""`sclds benchmark data`: reading and decoding beside Pillow in a torch DataLoader, on the same cores."""

import argparse
from pathlib import Path

from sclds.benchmarks.data import HEIGHT, WIDTH, Found, Sizes, compare_reading, cores_per_gpu
from sclds.benchmarks.rows import Row


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--rounds", type=int, default=5, help="timed turns of each side (default %(default)s)")
    parser.add_argument("--batches", type=int, default=16, help="batches of a turn (default %(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="pictures of a batch (default %(default)s)")
    parser.add_argument("--cores", type=int, default=0, help="cores, workers and decode threads (default: all)")
    parser.add_argument("--samples", type=int, default=20_000, help="to watch the memory for (default %(default)s)")
    parser.add_argument("--out", default="benchmarks", metavar="FOLDER", help="for data.csv and data.png")


def run(arguments: argparse.Namespace) -> int:
    """Measure both sides, the share of text, and memory; print and write them down; returns the exit code."""
    out = Path(arguments.out)
    sizes = Sizes(arguments.rounds, arguments.batches, arguments.batch, arguments.cores, arguments.samples)
    _print(compare_reading(sizes, out), arguments.samples)
    print(f"written to {out / 'data.csv'} and data.png")
    return 0


def _print(found: Found, samples: int) -> None:
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


def _line(row: Row) -> str:
    unit = "×" if row.metric.startswith("ratio") else " "
    spread = f"(20/80 %: {row.q20:.2f} to {row.q80:.2f})"
    return f"{row.provider:12s}{row.metric.replace('_', ' '):38s}{row.median:8.2f}{unit} {spread}"
