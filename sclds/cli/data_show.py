"""`sclds data show`: a page with the first samples of a training batch as the model sees them."""

import argparse
from pathlib import Path

from sclds.cli.arguments import add_config
from sclds.config.reading import load_config
from sclds.report.batch_page import write_batch_page


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_config(parser, option=False)
    parser.add_argument("--step", type=int, default=0, help="optimizer step whose batch is shown; 0 by default")
    parser.add_argument("--out", type=Path, default=Path("batch.html"), help="the page; batch.html by default")


def run(arguments: argparse.Namespace) -> int:
    """Write the page and name it; returns the exit code."""
    write_batch_page(load_config(arguments.config, arguments.overrides), arguments.step, arguments.out)
    print(arguments.out)
    return 0
