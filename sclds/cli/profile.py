"""`sclds profile`: measure training speed; alone, or as `deepspeed --module sclds.cli.profile --config C --steps N`.

Runs the real step on the real data, without held-out measurements, checkpoints or a run folder, and prints samples/s,
where the time went, and the share of the machine's peak matmul speed.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from sclds.cli.arguments import Whole, configured
from sclds.cli.command import Command, run

STAGES = ("data", "forward", "backward", "optimizer", "other")


@click.command("profile", cls=Command)
@configured
@click.option("--steps", type=Whole(1, 1_000_000), default=20, help="steps that count; one more warms up")
@click.option("--json", "as_json", is_flag=True, help="print JSON instead of text")
@click.option("--local_rank", type=Whole(-1), default=0, hidden=True, expose_value=False)
def command(config: str, overrides: tuple[str, ...], steps: int, as_json: bool) -> int:
    """Measure training speed and where the time of a step goes.

    The real step on the real data, without held-out measurements, checkpoints or a run folder; alone, or as
    `deepspeed --module sclds.cli.profile --config …`.
    """
    from sclds.config.overrides import replaced
    from sclds.config.rules import refuse_task
    from sclds.train.place import this_place
    from sclds.train.progress import drop_banners
    from sclds.train.startup import checked_start, exit_code

    def work() -> int:
        place = this_place()
        drop_banners(place.rank)
        # nothing is written; another folder keeps the checks from comparing with a run that is there
        elsewhere = f"run_dir={Path(tempfile.gettempdir()) / 'sclds-profile'}"
        settings = checked_start(config, replaced(overrides, [elsewhere]), place.world_size).config
        refuse_task(settings, "sclds profile")
        from sclds.train.profile_steps import profile_steps

        found = profile_steps(settings, steps)
        if found is not None:
            print(json.dumps(found, indent=2)) if as_json else _print(found)
        return 0

    return exit_code(work)


def _print(found: dict[str, Any]) -> None:
    """Print the figures for people."""
    from sclds.cli.printing import duration

    seconds, rate = found["seconds"], found["flops_per_sample"] * found["samples_per_second"]
    print(f"\n{found['name']}: {found['samples_per_second']:,.1f} samples/s on {found['processes']} processes")
    for stage in STAGES:
        print(f"  {stage:<10} {duration(seconds[stage]):>10}  {seconds[stage] / seconds['total']:6.1%}")
    print(f"  {'step':<10} {duration(seconds['total']):>10}")
    print(
        f"  {rate / 1e9:,.1f} GFLOP/s of matrix products, {rate / found['peak_flops']:.1%} of this machine's "
        f"{found['peak_flops'] / 1e9:,.0f} GFLOP/s"
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command by itself, as a launcher starts it, and return its exit code."""
    return run(command, argv, "sclds profile")


if __name__ == "__main__":
    sys.exit(main())
