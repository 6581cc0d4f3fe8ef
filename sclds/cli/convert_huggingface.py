"""`sclds convert huggingface`: a model into a Hugging Face folder that needs nothing of this package."""

from pathlib import Path

import click

from sclds.cli.arguments import FILE
from sclds.cli.command import Command


@click.command("huggingface", cls=Command)
@click.argument("folder", type=FILE)
@click.argument("out", type=FILE)
@click.option("--tokenizer", show_default="the model's own", help="`embedded`, or a Hugging Face name or folder")
@click.option("--license", "license_id", metavar="ID", help="license of the weights as the hub names it, such as mit")
def command(folder: Path, out: Path, tokenizer: str | None, license_id: str | None) -> None:
    """Turn a run or a folder into a Hugging Face folder that works without this package.

    FOLDER is a run folder, a checkpoint of one, or a folder that `sclds convert` wrote; OUT is new.
    """
    from sclds.interop.conversions import model_to_hugging_face

    model_to_hugging_face(folder, out, tokenizer, license_id)
    print(
        f"{out}: loads with `AutoModel` and `AutoProcessor` of transformers and trust_remote_code=True, "
        f"without this package; README.md in it says how"
    )
