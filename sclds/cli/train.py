"""`sclds train`: pre-train; alone, under torchrun, or as `deepspeed --module sclds.cli.train --config …`."""

import os
import sys

import click

from sclds.cli.arguments import Whole, configured
from sclds.cli.command import Command, run


@click.command("train", cls=Command)
@configured
@click.option("--local_rank", type=Whole(-1), default=0, hidden=True, expose_value=False)
def command(config: str, overrides: tuple[str, ...]) -> int:
    """Pre-train, go on, or show the result of a run that is done.

    Alone, under torchrun, or on many hosts as `deepspeed --hostfile hosts --module sclds.cli.train --config …`.
    """
    from sclds.train.startup import checked_start, exit_code

    def work() -> int:
        start = checked_start(config, list(overrides), int(os.environ.get("WORLD_SIZE", "1")))
        from sclds.train.pretrain import pretrain

        return pretrain(start.config, start.checkpoint)

    return exit_code(work, int(os.environ.get("RANK", "0")))


def main(argv: list[str] | None = None) -> int:
    """Run the command by itself, as a launcher starts it, and return its exit code."""
    return run(command, argv, "sclds train")


if __name__ == "__main__":
    sys.exit(main())
