"""`sclds train`: pre-train; alone, or as each process that `sclds launch`, DeepSpeed, torchrun or Slurm starts."""

import sys
from pathlib import Path

import click

from sclds.cli.arguments import Whole, configured
from sclds.cli.command import Command, run


@click.command("train", cls=Command)
@configured
@click.option("--hostfile-run", is_flag=True, hidden=True)
@click.option("--local_rank", type=Whole(-1), default=0, hidden=True, expose_value=False)
def command(config: str, overrides: tuple[str, ...], hostfile_run: bool) -> int:
    """Pre-train, go on, or show the result of a run that is done.

    Alone, or as what a launcher starts: torchrun, Slurm, DeepSpeed. `sclds launch` starts it on the hosts of a file.
    """
    from sclds.config.errors import ConfigError
    from sclds.train.place import this_place
    from sclds.train.startup import checked_start, exit_code

    def work() -> int:
        if hostfile_run and not Path(config).is_file():
            raise ConfigError([f"{config} is not there: the run folder has to be one that all hosts share"])
        start = checked_start(config, list(overrides), this_place().world_size, hostfile=hostfile_run)
        from sclds.train.pretrain import pretrain

        return pretrain(start.config, start.checkpoint)

    return exit_code(work)


def main(argv: list[str] | None = None) -> int:
    """Run the command by itself, as a launcher starts it, and return its exit code."""
    return run(command, argv, "sclds train")


if __name__ == "__main__":
    sys.exit(main())
