"""`sclds finetune`: fine-tune for a task; alone, or as each process that DeepSpeed, torchrun or Slurm starts."""

import sys

import click

from sclds.cli.arguments import Whole, configured
from sclds.cli.command import Command, run


@click.command("finetune", cls=Command)
@configured
@click.option("--local_rank", type=Whole(-1), default=0, hidden=True, expose_value=False)
def command(config: str, overrides: tuple[str, ...]) -> int:
    """Fine-tune for the task that a configuration names, go on, or show the result of a run that is done.

    It starts from the weights in model.init_from. Alone, or as what a launcher starts: torchrun, Slurm, DeepSpeed.
    """
    from sclds.config.errors import ConfigError
    from sclds.train.place import this_place
    from sclds.train.startup import checked_start, exit_code

    def work() -> int:
        start = checked_start(config, list(overrides), this_place().world_size)
        if start.config.task is None:
            raise ConfigError([f"{config} names no task, so it is a pre-training: set task.name, or use sclds train"])
        from sclds.train.pretrain import pretrain

        return pretrain(start.config, start.checkpoint)

    return exit_code(work)


def main(argv: list[str] | None = None) -> int:
    """Run the command by itself, as a launcher starts it, and return its exit code."""
    return run(command, argv, "sclds finetune")


if __name__ == "__main__":
    sys.exit(main())
