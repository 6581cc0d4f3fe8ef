"""`sclds data order`: how shards are read and how well samples are shuffled."""

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sclds.config.errors import UserError
from sclds.data.shuffle_quality import perfect_shuffle, plot, simulate, verdict

_SAMPLE_BYTES = 100_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--shards", type=int, required=True, help="shards of the data set")
    parser.add_argument("--samples-per-shard", type=int, required=True, help="samples of a shard")
    parser.add_argument("--block", type=int, required=True, help="shards shuffled together: data.shuffle_block")
    parser.add_argument("--global-batch", type=int, default=4096, help="samples of a step: batch.global_size")
    parser.add_argument(
        "--sample-bytes", type=int, default=_SAMPLE_BYTES, help=f"of an image with its caption; {_SAMPLE_BYTES}"
    )
    parser.add_argument("--plot", type=Path, help="write an image of the read pattern to this .png or .svg")


def run(arguments: argparse.Namespace) -> int:
    """Print the read pattern and the shuffle quality beside a perfect shuffle's; returns the exit code."""
    for option in ("shards", "samples_per_shard", "block", "global_batch", "sample_bytes"):
        if getattr(arguments, option) < 1:
            raise UserError(f"--{option.replace('_', '-')} is {getattr(arguments, option)}: give at least 1")
    shards, each, batch = arguments.shards, arguments.samples_per_shard, arguments.global_batch
    if batch > shards * each:
        raise UserError(f"--global-batch is {batch}, more than the {shards * each} samples of an epoch: lower it")
    block = min(arguments.block, shards)
    own, perfect = simulate(shards, each, block, batch), perfect_shuffle(shards, each, block, batch)
    held, everything = (count * each * arguments.sample_bytes / 1e9 for count in (block, shards))
    console, table = Console(highlight=False, soft_wrap=True), Table("", f"block of {block}", "perfect shuffle")
    table.title, table.title_justify = f"{shards:,} shards of {each:,} samples, batches of {batch:,}", "left"
    rows = (
        ("shards open at a time", f"{own.open_shards:.1f}, most {own.most_open:.0f}", f"{perfect.open_shards:.1f}"),
        ("read ahead, to be held", f"{held:.2f} GB", f"{everything:.2f} GB"),
        ("of that used in sequence", f"{own.used:.1%}", f"{perfect.used:.1%}"),
        ("pairs of a batch from one shard", f"{own.same_shard:.3%}", f"{perfect.same_shard:.3%}"),
        ("how far a sample travels", f"{own.travel:.3f} epochs", f"{perfect.travel:.3f} epochs"),
    )
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(verdict(own, perfect, held))
    if arguments.plot:
        plot(arguments.plot, shards, each, block, batch)
        console.print(f"plot: {arguments.plot}")
    return 0
