"""`sclds report`: the page of a run."""

import argparse
from pathlib import Path

from sclds.report.run_page import write_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("run_dir", type=Path, help="folder of a run, for example runs/quickstart")


def run(arguments: argparse.Namespace) -> int:
    """Write the page and name it; returns the exit code."""
    print(write_report(arguments.run_dir))
    return 0
