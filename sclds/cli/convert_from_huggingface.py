"""`sclds convert from-huggingface`: an exported folder back into a folder that `model.init_from` reads."""

import argparse
from pathlib import Path

from sclds.cli.converted import tell
from sclds.interop.conversions import hugging_face_to_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("folder", type=Path, help="folder that `sclds convert huggingface` wrote")
    parser.add_argument("out", type=Path, help="new folder")


def run(arguments: argparse.Namespace) -> int:
    """Convert, and list what happened to every name; returns the exit code."""
    tell(arguments.out, hugging_face_to_folder(arguments.folder, arguments.out))
    return 0
