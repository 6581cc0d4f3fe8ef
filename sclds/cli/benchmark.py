"""`sclds benchmark`: comparisons in one run; each subcommand is a module with `add_arguments` and `run`."""

import argparse
import importlib

COMMANDS = {
    "step": ("sclds.benchmarks.step", "speed of one optimiser step, beside the published schedule"),
    "data": ("sclds.benchmarks.data", "reading and decoding, beside Pillow in a torch DataLoader"),
    "economy": (
        "sclds.benchmarks.economy",
        "retrieval after training in the exact and the economy mode, at equal steps and equal time",
    ),
}
"""Name → module with `add_arguments(parser)` and `run(arguments) -> exit code`, and one line of help."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands."""
    parsers = parser.add_subparsers(dest="benchmark", required=True, metavar="what")
    for name, (module, line) in COMMANDS.items():
        importlib.import_module(module).add_arguments(parsers.add_parser(name, help=line, description=line))


def run(arguments: argparse.Namespace) -> int:
    """Run the chosen comparison and return its exit code."""
    return int(importlib.import_module(COMMANDS[arguments.benchmark][0]).run(arguments))
