"""`sclds profile`: measure training speed; alone, or as `deepspeed --module sclds.cli.profile --config C --steps N`.

Runs the real step on the real data, without held-out measurements, checkpoints or a run folder, and prints samples/s,
where the time went, and the share of the machine's peak matmul speed.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from sclds.cli.arguments import add_config, show_any_text
from sclds.train.startup import checked_start, exit_code

STAGES = ("data", "forward", "backward", "optimizer", "other")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; `--local_rank` comes from the launcher."""
    add_config(parser)
    parser.add_argument("--steps", type=int, default=20, help="steps that count (default 20); one more warms up")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument("--local_rank", type=int, default=0, help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    """Check everything, then measure and print; returns the exit code."""
    from sclds.train.progress import drop_banners

    rank = int(os.environ.get("RANK", "0"))
    drop_banners(rank)
    if arguments.steps < 1:
        print("error: --steps must be at least 1", file=sys.stderr)
        return 2

    def work() -> int:
        # nothing is written; another folder keeps the checks from comparing with a run that is there
        elsewhere = f"run_dir={Path(tempfile.gettempdir()) / 'sclds-profile'}"
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        config = checked_start(arguments.config, [*arguments.overrides, elsewhere], processes).config
        from sclds.train.profile_steps import profile_steps

        found = profile_steps(config, arguments.steps)
        if found is not None:
            print(json.dumps(found, indent=2)) if arguments.json else _print(found)
        return 0

    return exit_code(work, rank)


def _print(found: dict[str, Any]) -> None:
    """Print the figures for people."""
    seconds, rate = found["seconds"], found["flops_per_sample"] * found["samples_per_second"]
    print(f"\n{found['name']}: {found['samples_per_second']:,.1f} samples/s on {found['processes']} processes")
    for stage in STAGES:
        print(f"  {stage:<10} {seconds[stage]:8.3f} s  {seconds[stage] / seconds['total']:6.1%}")
    print(f"  {'step':<10} {seconds['total']:8.3f} s")
    print(
        f"  {rate / 1e9:,.1f} GFLOP/s of matrix products, {rate / found['peak_flops']:.1%} of this machine's "
        f"{found['peak_flops'] / 1e9:,.0f} GFLOP/s"
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command by itself, as a launcher starts it, and return its exit code."""
    show_any_text()
    parser = argparse.ArgumentParser(
        prog="sclds profile", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
