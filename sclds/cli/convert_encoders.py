"""`sclds convert encoders`: encoders of Hugging Face or open_clip into a folder that `model.init_from` reads."""

from pathlib import Path

import click

from sclds.cli.arguments import FILE
from sclds.cli.command import Command
from sclds.cli.converted import model_settings, tell

VISION_HELP = (
    "CLIP, SigLIP 2 or Perception Encoder: hub name or folder of Hugging Face, folder of open_clip, PE's own file"
)


@click.command("encoders", cls=Command)
@click.argument("out", type=FILE)
@click.option("--vision", default="openai/clip-vit-base-patch16", help=VISION_HELP)
@click.option("--text", default="roberta-base", help="RoBERTa or XLM-RoBERTa: hub name or folder")
@model_settings
def command(out: Path, vision: str, text: str, model: tuple[str, ...], seed: int) -> None:
    """Bring a vision and a text encoder of Hugging Face or open_clip into the new folder OUT, fusion drawn by seed."""
    from sclds.interop.conversions import encoders_to_folder

    tell(out, encoders_to_folder(vision, text, out, list(model), seed))
