"""`sclds benchmark economy`: held-out retrieval of the exact and the economy mode."""

import argparse
from pathlib import Path

from rich.console import Console

from sclds.benchmarks.economy import compare, table
from sclds.cli.arguments import add_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_config(parser)
    parser.add_argument("--steps", type=int, help="optimizer steps at equal steps (default: schedule.steps)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds (default 0 1 2)")
    parser.add_argument("--processes", type=int, default=2, help="processes of each run (default %(default)s)")
    parser.add_argument("--out", default="benchmarks/economy", metavar="FOLDER", help="for runs, CSV and plot")


def run(arguments: argparse.Namespace) -> int:
    """Run what is not done yet, print the table and write it down; returns the exit code."""
    folder = Path(arguments.out)
    found = compare(
        Path(arguments.config),
        arguments.overrides,
        arguments.steps,
        arguments.seeds,
        arguments.processes,
        folder,
        Console(stderr=True).print,
    )
    print(f"{table(found)}\nwritten to {folder / 'economy.csv'} and economy.png")
    return 0
