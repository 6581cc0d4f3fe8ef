"""`sclds data`: look at what a configuration reads; each subcommand is a module with `add_arguments` and `run`."""

import argparse
import importlib

COMMANDS = {
    "show": ("sclds.report.batch_page", "write a page with a batch as the model sees it"),
    "order": (
        "sclds.cli.data_order",
        "show how shards are read and how well samples are shuffled, without any data",
    ),
    "stats": ("sclds.data.stats", "count and measure the samples of every data set"),
}
"""Name → module with `add_arguments(parser)` and `run(arguments) -> exit code`, and one line of help."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands."""
    parsers = parser.add_subparsers(dest="data_command", required=True, metavar="command")
    for name, (module, line) in COMMANDS.items():
        importlib.import_module(module).add_arguments(parsers.add_parser(name, help=line, description=line))


def run(arguments: argparse.Namespace) -> int:
    """Run the chosen subcommand and return its exit code."""
    return int(importlib.import_module(COMMANDS[arguments.data_command][0]).run(arguments))


def add_config(parser: argparse.ArgumentParser) -> None:
    """Declare the configuration that a subcommand reads, with settings that replace those of the file."""
    parser.add_argument("config", help="YAML file, for example configs/quickstart.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the file")
