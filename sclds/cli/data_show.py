"""`sclds data show`: a page with the first samples of a training batch as the model sees them."""

from pathlib import Path

import click

from sclds.cli.arguments import FILE, MANY, Whole, configured
from sclds.cli.command import Command


@click.command("show", cls=Command)
@configured
@click.option("--step", type=Whole(-MANY), default=0, help="optimizer step whose batch is shown")
@click.option("--out", type=FILE, default="batch.html", metavar="FILE", help="the page")
def command(config: str, overrides: tuple[str, ...], step: int, out: Path) -> None:
    """Write a page with a batch as the model sees it."""
    from sclds.config.reading import load_config
    from sclds.report.batch_page import write_batch_page

    write_batch_page(load_config(config, list(overrides)), step, out)
    print(out)
