"""The `sclds` command: a table of subcommands, each imported only when it is called."""

import argparse
import importlib
import sys

from sclds.errors import UserError

COMMANDS = {
    "doctor": ("sclds.doctor", "say what is installed, what is missing, what that costs and how to mend it"),
    "convert": ("sclds.interop.convert", "bring weights in and out: released, Hugging Face, a run's checkpoint"),
    "verify": ("sclds.verify", "compare with published numbers, and one split over processes with another"),
    "plan": ("sclds.profiling.plan", "compute speed, memory and communication of a configuration on a cluster"),
    "benchmark": ("sclds.profiling.benchmark", "measure the step and the data beside what is usual, on this machine"),
    "report": ("sclds.profiling.report", "write the throughput and learning page of a run"),
    "data": ("sclds.data.command", "look at what a configuration reads"),
    "prepare": ("sclds.data.prepare.command", "turn a public data set into shards"),
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
