"""`sclds convert to-released`: a folder into a torch file with the released names."""

import argparse
from pathlib import Path

from sclds.interop.conversions import folder_to_released


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("folder", type=Path, help="folder that `sclds convert` wrote")
    parser.add_argument("out", type=Path, help="new torch file with `state_dict`")


def run(arguments: argparse.Namespace) -> int:
    """Convert, and count the tensors; returns the exit code."""
    tensors = folder_to_released(arguments.folder, arguments.out)
    print(f"{arguments.out}: {tensors} tensors under the released names")
    return 0
