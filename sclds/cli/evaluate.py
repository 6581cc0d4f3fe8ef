"""`sclds evaluate`: measure a checkpoint or weights on held-out sets; alone, under torchrun or deepspeed.

On several processes: `torchrun --nproc_per_node N -m sclds.cli.evaluate …`, `deepspeed --module sclds.cli.evaluate …`.
"""

import errno
import json
import os
import sys
import tempfile
from pathlib import Path

import click

from sclds.cli.arguments import FILE, Whole
from sclds.cli.command import Command, run

RESULTS = "evaluation.json"
"""Written into the folder that is measured, unless --out names another file."""
ALIGNMENT = "alignment.json"
"""The same of --align-bench."""


@click.command("evaluate", cls=Command)
@click.argument("weights", type=FILE)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--config",
    metavar="FILE",
    show_default="that of the run",
    help="YAML file or the name of a shipped configuration, which a converted folder needs; KEY=VALUE replaces "
    "settings of it or of the run",
)
@click.option(
    "--data",
    multiple=True,
    metavar="NAME=SHARDS",
    show_default="those of the configuration",
    help="held-out set, again for each; video:NAME=SHARDS for videos, NAME alone for a set of the catalogue",
)
@click.option(
    "--out", type=FILE, metavar="FILE", show_default=f"{RESULTS} in the folder that is measured", help="results as JSON"
)
@click.option(
    "--align-bench",
    "benchmark",
    type=FILE,
    metavar="FOLDER",
    show_default="none",
    help="measure alignment alone, on this folder of ALIGN-BENCH (images/, pkls/)",
)
@click.option("--local_rank", type=Whole(-1), default=0, hidden=True, expose_value=False)
def command(
    weights: Path,
    overrides: tuple[str, ...],
    config: str | None,
    data: tuple[str, ...],
    out: Path | None,
    benchmark: Path | None,
) -> int:
    """Measure a checkpoint or weights on held-out sets.

    WEIGHTS is a run folder, a checkpoint `step-…` of it, or a folder that `sclds convert` wrote. Alone, under torchrun,
    or as `deepspeed --module sclds.cli.evaluate …`.
    """
    if benchmark is not None and data:
        raise click.UsageError("--align-bench brings its own data: leave out --data")
    from sclds.train.place import this_place
    from sclds.train.progress import drop_banners
    from sclds.train.startup import exit_code

    def work() -> int:
        rank = this_place().rank
        drop_banners(rank)
        from sclds.data.heldout_apart import shared_shards
        from sclds.evaluation.answers import PREDICTIONS
        from sclds.evaluation.parts import remove_parts
        from sclds.interop.measure import find_target, measure
        from sclds.train.measuring import measuring
        from sclds.train.progress import Reporter

        target = find_target(weights, config, data, overrides, benchmark)
        results_file = out or weights / (ALIGNMENT if benchmark else RESULTS)
        if rank == 0:
            _refuse_unwritable(results_file)
        reporter = Reporter(rank, 0)
        own = target.config.evaluation.align_bench
        names = [one.name for one in target.config.data.heldout] + ([own] if own else [])
        reporter.say(f"Measuring {target.folder} on {', '.join(names)}")
        for sentence in shared_shards(target.config.data) if rank == 0 else ():
            reporter.say(sentence)
        parts = results_file.with_name(f"{results_file.name}.parts")
        with measuring(target.config.limits) as (group, limit), limit("evaluation", "evaluation"):
            results = measure(target, group, reporter.count, parts, reporter.say)
            predictions = results.pop(PREDICTIONS, {})
            reporter.show_results(results)
            if rank == 0:
                _write(results_file, results)
                for name, answers in predictions.items():
                    _write(results_file.with_name(f"{PREDICTIONS}-{name}.json"), answers)
            group.gather_counts([0])  # written: a process whose node has a disk of its own has parts there
            remove_parts(parts)
            reporter.say(f"Results      {results_file}")
        return 0

    return exit_code(work, "measures again")


def _refuse_unwritable(out: Path) -> None:
    """Refuse a file that cannot be written before all is measured, rather than behind it."""
    from sclds.config.errors import UserError

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=out.parent) as file:
            file.write(b"{}")
    except OSError as fault:
        raise UserError(f"{out} cannot be written ({fault.strerror}): give another --out") from fault


def _write(out: Path, results: object) -> None:
    """Write the results; an older file is replaced in one go."""
    from sclds.config.errors import UserError
    from sclds.run.files import write_atomically

    try:
        write_atomically(out, json.dumps(results, indent=2) + "\n")
    except OSError as fault:
        raise UserError(f"{out} cannot be written ({fault.strerror}): give another --out") from fault


def main(argv: list[str] | None = None) -> int:
    """Run the command by itself, as a launcher starts it, and return its exit code."""
    return run(command, argv, "sclds evaluate")


if __name__ == "__main__":
    sys.exit(main())
