"""The `sclds` command: a table of subcommands, each imported only when it is called."""

import argparse
import importlib
import sys

from sclds.config.errors import UserError

COMMANDS = {
    "doctor": ("sclds.cli.doctor", "say what is installed, what is missing, what that costs and how to mend it"),
    "convert": ("sclds.cli.convert", "bring weights in and out: released, Hugging Face, a run's checkpoint"),
    "verify": ("sclds.reference.vectors", "compare with published numbers, and one split over processes with another"),
    "plan": ("sclds.costs.plan", "compute speed, memory and communication of a configuration on a cluster"),
    "benchmark": ("sclds.cli.benchmark", "measure the step and the data beside what is usual, on this machine"),
    "report": ("sclds.report.run_page", "write the throughput and learning page of a run"),
    "data": ("sclds.cli.data", "look at what a configuration reads"),
    "prepare": ("sclds.cli.prepare", "turn a public data set into shards"),
}
"""Name → module with `add_arguments(parser)` and `run(arguments) -> exit code`, and one line of help."""


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand and return its exit code; a user's fault is a sentence and 2."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="sclds", description="Semantic Completion Learning under DeepSpeed.")
    parsers = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, (module, line) in COMMANDS.items():
        subparser = parsers.add_parser(name, help=line, description=line)
        if argv and argv[0] == name:
            importlib.import_module(module).add_arguments(subparser)
    arguments = parser.parse_args(argv)
    try:
        return int(importlib.import_module(COMMANDS[arguments.command][0]).run(arguments))
    except UserError as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
