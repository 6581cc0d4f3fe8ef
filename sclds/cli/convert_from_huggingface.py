"""`sclds convert from-huggingface`: an exported folder back into a folder that `model.init_from` reads."""

from pathlib import Path

import click

from sclds.cli.arguments import FILE
from sclds.cli.command import Command
from sclds.cli.converted import tell


@click.command("from-huggingface", cls=Command)
@click.argument("folder", type=FILE)
@click.argument("out", type=FILE)
def command(folder: Path, out: Path) -> None:
    """Bring a FOLDER that `sclds convert huggingface` wrote back into the new folder OUT."""
    from sclds.interop.conversions import hugging_face_to_folder

    tell(out, hugging_face_to_folder(folder, out))
