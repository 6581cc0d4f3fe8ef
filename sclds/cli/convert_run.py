"""`sclds convert run`: the weights of a run's checkpoint into a folder that `model.init_from` reads."""

from pathlib import Path

import click

from sclds.cli.arguments import FILE
from sclds.cli.command import Command
from sclds.cli.converted import tell


@click.command("run", cls=Command)
@click.argument("run_dir", metavar="RUN", type=FILE)
@click.argument("out", type=FILE)
def command(run_dir: Path, out: Path) -> None:
    """Bring the newest checkpoint of a RUN, of any ZeRO stage, into the new folder OUT.

    RUN may also be one `step-…` folder of its checkpoints.
    """
    from sclds.interop.conversions import run_to_folder

    tell(out, run_to_folder(run_dir, out))
