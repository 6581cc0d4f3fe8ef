"""`sclds prepare embedded`: the images, videos and tokenizer inside the package, from the packages they come from."""

import argparse
from pathlib import Path

from sclds.data.prepare.embedded import prepare_embedded


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards")
    parser.add_argument("--cache", type=Path, required=True, help="folder for downloads and finished samples")


def run(arguments: argparse.Namespace) -> int:
    """Prepare; started again, it goes on where it stopped. Returns the exit code."""
    prepare_embedded(arguments.out, arguments.cache)
    return 0
