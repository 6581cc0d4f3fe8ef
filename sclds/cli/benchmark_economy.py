"""`sclds benchmark economy`: held-out retrieval of the exact and the economy mode."""

from typing import Any

import click

from sclds.cli.command import Command
from sclds.cli.compared import compared, run_comparison


@click.command("economy", cls=Command)
@compared("economy", (0, 1, 2))
def command(**given: Any) -> None:
    """Compare retrieval after training in the exact and the economy mode, at equal steps and equal time.

    Runs that are done already are not run again.
    """
    from sclds.benchmarks.economy import COMPARISON

    run_comparison(COMPARISON, **given)
