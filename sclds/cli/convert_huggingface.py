"""`sclds convert huggingface`: a folder into a Hugging Face folder."""

from pathlib import Path

import click

from sclds.cli.arguments import FILE
from sclds.cli.command import Command


@click.command("huggingface", cls=Command)
@click.argument("folder", type=FILE)
@click.argument("out", type=FILE)
@click.option("--tokenizer", default="roberta-base", help="`embedded`, or a Hugging Face name or folder")
def command(folder: Path, out: Path, tokenizer: str) -> None:
    """Turn a FOLDER that `sclds convert` wrote into a Hugging Face folder OUT: config, safetensors, processor, card."""
    from sclds.interop.conversions import folder_to_hugging_face

    folder_to_hugging_face(folder, out, tokenizer)
    print(f"{out}: loads with `import sclds.interop.huggingface` and `AutoModel.from_pretrained`")
