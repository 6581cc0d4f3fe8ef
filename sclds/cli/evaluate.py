"""`sclds evaluate`: measure a checkpoint or weights on held-out sets; alone, under torchrun or deepspeed.

On several processes: `torchrun --nproc_per_node N -m sclds.cli.evaluate …`, `deepspeed --module sclds.cli.evaluate …`.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from sclds.train.startup import exit_code

RESULTS = "evaluation.json"
"""Written into the folder that is measured, unless --out names another file."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; `--local_rank` comes from the launcher."""
    parser.add_argument("weights", type=Path, help="run folder, a checkpoint `step-…` of it, or a converted folder")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace those of the run")
    parser.add_argument("--config", help="configuration, which a converted folder needs; by default the run's own")
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="NAME=SHARDS",
        help="held-out set, again for each; video:NAME=SHARDS for videos, NAME alone for a set of the catalogue; by "
        "default the run's own",
    )
    parser.add_argument("--out", type=Path, help=f"results; by default {RESULTS} in the folder that is measured")
    parser.add_argument("--local_rank", type=int, default=0, help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    """Check everything, then measure, print tables and write the results; returns the exit code."""
    from sclds.train.progress import drop_banners

    rank = int(os.environ.get("RANK", "0"))
    drop_banners(rank)

    def work() -> int:
        from sclds.interop.measure import find_target, measure
        from sclds.train.distributed import ProcessGroup
        from sclds.train.progress import Reporter

        target = find_target(arguments.weights, arguments.config, arguments.data, arguments.overrides)
        out = arguments.out or arguments.weights / RESULTS
        reporter = Reporter(rank, 0)
        reporter.say(f"Measuring {target.folder} on {', '.join(one.name for one in target.config.data.heldout)}")
        group = ProcessGroup()
        try:
            results = measure(target, group)
            if rank == 0:
                _write(out, results)
            reporter.show_results(results)
            reporter.say(f"Results      {out}")
        finally:
            group.close()
        return 0

    return exit_code(work, rank)


def _write(out: Path, results: dict[str, object]) -> None:
    """Write the results; an older file is replaced in one go."""
    from sclds.config.errors import UserError
    from sclds.run.files import write_atomically

    try:
        write_atomically(out, json.dumps(results, indent=2) + "\n")
    except OSError as fault:
        raise UserError(f"{out} cannot be written ({fault.strerror}): give another --out") from fault


def main(argv: list[str] | None = None) -> int:
    """Run the command by itself, as a launcher starts it, and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="sclds evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
