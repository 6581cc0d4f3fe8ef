"""`sclds convert huggingface`: a model into a Hugging Face folder that needs nothing of this package."""

import argparse
from pathlib import Path

from sclds.interop.conversions import model_to_hugging_face


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("folder", type=Path, help="run folder, checkpoint of one, or folder that `sclds convert` wrote")
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument("--tokenizer", help="`embedded`, or a Hugging Face name or folder; by default the model's own")
    parser.add_argument("--license", metavar="ID", help="license of the weights as the hub names it, such as mit")


def run(arguments: argparse.Namespace) -> int:
    """Convert, and say how the result is loaded; returns the exit code."""
    model_to_hugging_face(arguments.folder, arguments.out, arguments.tokenizer, arguments.license)
    print(
        f"{arguments.out}: loads with `AutoModel` and `AutoProcessor` of transformers and trust_remote_code=True, "
        f"without this package; README.md in it says how"
    )
    return 0
