"""`sclds explore`: a page of what a model completes on held-out data."""

from pathlib import Path

import click

from sclds.cli.arguments import FILE, Whole
from sclds.cli.command import Command

PAGE = "explore.html"
"""Written into the folder that is explored, unless --out names another file."""


@click.command("explore", cls=Command)
@click.argument("weights", type=FILE)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--examples", type=Whole(0, 200), default=8, help="samples that are shown, at even distances")
@click.option(
    "--config",
    metavar="FILE",
    show_default="that of the run",
    help="YAML file or the name of a shipped configuration; KEY=VALUE replaces settings of it or of the run",
)
@click.option(
    "--data",
    multiple=True,
    metavar="NAME=SHARDS",
    show_default="those of the configuration",
    help="held-out set, again for each; video:NAME=SHARDS for videos, NAME alone for a set of the catalogue",
)
@click.option("--out", type=FILE, metavar="FILE", show_default=f"{PAGE} in the folder itself", help="the page")
def command(
    weights: Path,
    overrides: tuple[str, ...],
    examples: int,
    config: str | None,
    data: tuple[str, ...],
    out: Path | None,
) -> None:
    """Write a page of what a model completes.

    Masked images and captions of held-out data: what their recovered features find with the right partner, a wrong one
    and none, and where the words of a caption look. WEIGHTS is a run folder, a checkpoint `step-…` of it, a folder that
    `sclds convert` wrote, or an exported folder; the last two need --data or --config.
    """
    from sclds.interop.explore import write_explore_page
    from sclds.train.progress import Reporter, drop_banners

    drop_banners(0)
    page = out or weights / PAGE
    reporter = Reporter(0, 0)
    write_explore_page(weights, config, data, overrides, examples, page, reporter.count)
    reporter.say(f"Page         {page}")
