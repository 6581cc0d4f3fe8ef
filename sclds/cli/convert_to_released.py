"""`sclds convert to-released`: a folder into a torch file with the released names."""

from pathlib import Path

import click

from sclds.cli.arguments import FILE
from sclds.cli.command import Command


@click.command("to-released", cls=Command)
@click.argument("folder", type=FILE)
@click.argument("out", type=FILE)
def command(folder: Path, out: Path) -> None:
    """Turn a FOLDER that `sclds convert` wrote into a torch file OUT with the released names."""
    from sclds.interop.conversions import folder_to_released

    tensors = folder_to_released(folder, out)
    print(f"{out}: {tensors} tensors under the released names")
