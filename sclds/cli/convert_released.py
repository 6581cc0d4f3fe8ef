"""`sclds convert released`: a released checkpoint into a folder that `model.init_from` reads."""

from pathlib import Path

import click

from sclds.cli.arguments import FILE
from sclds.cli.command import Command
from sclds.cli.converted import model_settings, tell


@click.command("released", cls=Command)
@click.argument("file", type=FILE)
@click.argument("out", type=FILE)
@click.option("--allow", multiple=True, metavar="NAME", help="a name that may be missing or unknown; repeatable")
@model_settings
def command(file: Path, out: Path, allow: tuple[str, ...], model: tuple[str, ...], seed: int) -> None:
    """Bring a released SCL, GLSCL or METER checkpoint (torch FILE, read with weights_only) into the new folder OUT."""
    from sclds.interop.conversions import released_to_folder

    folder = released_to_folder(file, out, list(model), list(allow), seed)
    tell(out, folder)
    sizes = folder.config
    heads = f"vision.heads={sizes.vision.heads} text.heads={sizes.text.heads} fusion.heads={sizes.fusion.heads}"
    print(f"Head counts are not in the tensors; taken: {heads}")
