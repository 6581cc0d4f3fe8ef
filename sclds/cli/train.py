"""`sclds train`: pre-train; alone, under torchrun, or as `deepspeed --module sclds.cli.train --config …`."""

import argparse
import os
import sys

from sclds.cli.arguments import add_config, show_any_text
from sclds.train.startup import checked_start, exit_code


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; `--local_rank` comes from the launcher."""
    add_config(parser)
    parser.add_argument("--local_rank", type=int, default=0, help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    """Check everything, then train, or go on, or show the result of a run that is done; returns the exit code."""

    def work() -> int:
        start = checked_start(arguments.config, arguments.overrides, int(os.environ.get("WORLD_SIZE", "1")))
        from sclds.train.pretrain import pretrain

        return pretrain(start.config, start.checkpoint)

    return exit_code(work, int(os.environ.get("RANK", "0")))


def main(argv: list[str] | None = None) -> int:
    """Run the command by itself, as a launcher starts it, and return its exit code."""
    show_any_text()
    parser = argparse.ArgumentParser(prog="sclds train", description=__doc__)
    add_arguments(parser)
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
