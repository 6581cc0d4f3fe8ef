"""`sclds data order`: how shards are read and how well samples are shuffled."""

from pathlib import Path

import click

from sclds.cli.arguments import FILE, Whole
from sclds.cli.command import Command

_MOST_SAMPLES = 20_000_000
"""Of a block, whose order is computed whole: about ten seconds."""


@click.command("order", cls=Command)
@click.option("--shards", type=Whole(1, 1_000_000), required=True, help="shards of the data set")
@click.option("--samples-per-shard", type=Whole(1, 10_000_000), required=True, help="samples of a shard")
@click.option("--block", type=Whole(1, 1_000_000), required=True, help="shards shuffled together: data.shuffle_block")
@click.option("--global-batch", type=Whole(1, 262_144), default=4096, help="samples of a step: batch.global_size")
@click.option("--sample-bytes", type=Whole(), default=100_000, help="bytes of an image with its caption")
@click.option("--plot", type=FILE, help="write an image of the read pattern to this .png or .svg")
def command(
    shards: int, samples_per_shard: int, block: int, global_batch: int, sample_bytes: int, plot: Path | None
) -> None:
    """Show how shards are read and how well samples are shuffled, without any data."""
    from sclds.cli.printing import Sheet
    from sclds.config.errors import UserError
    from sclds.data import shuffle_quality as quality

    each, batch = samples_per_shard, global_batch
    if batch > shards * each:
        raise UserError(f"--global-batch is {batch}, more than the {shards * each} samples of an epoch: lower it")
    block = min(block, shards)
    if block * each > _MOST_SAMPLES:
        raise UserError(
            f"a block of {block} shards holds {block * each} samples, and at most {_MOST_SAMPLES} are simulated; "
            f"lower --block"
        )
    own, perfect = quality.simulate(shards, each, block, batch), quality.perfect_shuffle(shards, each, block, batch)
    held, everything = (count * each * sample_bytes / 1e9 for count in (block, shards))
    sheet = Sheet()
    sheet.table(
        ("", f"block of {block}", "perfect shuffle"),
        (
            ("shards open at a time", f"{own.open_shards:.1f}, most {own.most_open:.0f}", f"{perfect.open_shards:.1f}"),
            ("read ahead, to be held", f"{held:.2f} GB", f"{everything:.2f} GB"),
            ("of that used in sequence", f"{own.used:.1%}", f"{perfect.used:.1%}"),
            ("pairs of a batch from one shard", f"{own.same_shard:.3%}", f"{perfect.same_shard:.3%}"),
            ("how far a sample travels", f"{own.travel:.3f} epochs", f"{perfect.travel:.3f} epochs"),
        ),
        title=f"{shards:,} shards of {each:,} samples, batches of {batch:,}",
    )
    sheet.text(quality.verdict(own, perfect, held))
    if plot:
        quality.plot(plot, shards, each, block, batch)
        print(f"plot: {plot}")
