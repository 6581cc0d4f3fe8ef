"""`sclds convert huggingface`: a folder into a Hugging Face folder."""

import argparse
from pathlib import Path

from sclds.interop.conversions import folder_to_hugging_face


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("folder", type=Path, help="folder that `sclds convert` wrote")
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument("--tokenizer", default="roberta-base", help="`embedded`, or a Hugging Face name or folder")


def run(arguments: argparse.Namespace) -> int:
    """Convert, and say how the result is loaded; returns the exit code."""
    folder_to_hugging_face(arguments.folder, arguments.out, arguments.tokenizer)
    print(f"{arguments.out}: loads with `import sclds.interop.huggingface` and `AutoModel.from_pretrained`")
    return 0
