"""`sclds convert run`: the weights of a run's checkpoint into a folder that `model.init_from` reads."""

import argparse
from pathlib import Path

from sclds.cli.converted import tell
from sclds.interop.conversions import run_to_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("run_dir", metavar="run", type=Path, help="run folder, or one checkpoint `step-…` of it")
    parser.add_argument("out", type=Path, help="new folder")


def run(arguments: argparse.Namespace) -> int:
    """Convert, and list what happened to every name; returns the exit code."""
    tell(arguments.out, run_to_folder(arguments.run_dir, arguments.out))
    return 0
