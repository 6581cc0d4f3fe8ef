"""`sclds benchmark objectives`: what each group of objectives adds to held-out retrieval."""

from typing import Any

import click

from sclds.cli.command import Command
from sclds.cli.compared import compared, run_comparison


@click.command("objectives", cls=Command)
@compared("objectives", (0, 1, 2, 3, 4))
def command(**given: Any) -> None:
    """Compare retrieval after training with more and more of the objectives, at equal steps and equal time.

    Contrastive alone, with ITM and MLM, with either completion objective, with both, with the local terms, and with
    the sigmoid loss in place of the contrastive one. Runs that are done already are not run again.
    """
    from sclds.benchmarks.objectives import COMPARISON

    run_comparison(COMPARISON, **given)
