"""`sclds evaluate`: measure a checkpoint or weights on held-out sets; alone, under torchrun or deepspeed.

On several processes: `torchrun --nproc_per_node N -m sclds.cli.evaluate …`, `deepspeed --module sclds.cli.evaluate …`.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    if benchmark is not None:
        if overrides or config or data:
            raise click.UsageError("--align-bench brings its own data: leave out --config, --data and KEY=VALUE")
        return _alignment(weights, benchmark, out or weights / ALIGNMENT)
    from sclds.train.place import this_place
    from sclds.train.progress import drop_banners
    from sclds.train.startup import exit_code

    def work() -> int:
        rank = this_place().rank
        drop_banners(rank)
        from sclds.data.heldout_apart import shared_shards
        from sclds.evaluation.answers import PREDICTIONS
        from sclds.interop.measure import find_target, measure
        from sclds.train.distributed import ProcessGroup
        from sclds.train.progress import Reporter

        target = find_target(weights, config, data, overrides)
        results_file = out or weights / RESULTS
        reporter = Reporter(rank, 0)
        reporter.say(f"Measuring {target.folder} on {', '.join(one.name for one in target.config.data.heldout)}")
        for sentence in shared_shards(target.config.data) if rank == 0 else ():
            reporter.say(sentence)
        group = ProcessGroup()
        try:
            results = measure(target, group, reporter.count)
            predictions = results.pop(PREDICTIONS, {})
            if rank == 0:
                _write(results_file, results)
                for name, answers in predictions.items():
                    _write(results_file.with_name(f"{PREDICTIONS}-{name}.json"), answers)
            reporter.show_results(results)
            reporter.say(f"Results      {results_file}")
        finally:
            group.close()
        return 0

    return exit_code(work)


def _alignment(weights: Path, benchmark: Path, out: Path) -> int:
    """Measure a model on a folder of ALIGN-BENCH; return the exit code."""
    from sclds.cli.printing import Sheet
    from sclds.train.place import this_place
    from sclds.train.progress import Reporter, drop_banners

    place = this_place()
    drop_banners(place.rank)
    if place.world_size > 1:
        raise click.UsageError("--align-bench is measured by one process: start `sclds evaluate` by itself")
    import sclds
    from sclds.evaluation.align_bench import FORMS
    from sclds.interop.align_bench import SCORES, measure_alignment

    reporter = Reporter(0, 0)
    found = measure_alignment(sclds.load(weights), benchmark, reporter.count)
    _write(out, {"source": str(weights), "benchmark": str(benchmark)} | found)
    rows = [(name, *(_figure(found[name], form) for form in FORMS), f"{found[name]['n']:,}") for name in SCORES]
    sheet = Sheet()
    sheet.table(("", "boxes", "pixels", "captions"), rows, "ALIGN-BENCH: share of attention in the regions", right=True)
    for reason, those in found["left_out"].items():
        sheet.text(f"left out: {those['pairs']:,}, {reason} (the first is {those['first']})")
    reporter.say(f"Results      {out}")
    return 0


def _figure(scores: Mapping[str, Any], form: str) -> str:
    """Return a score and what an even map would have."""
    from sclds.interop.align_bench import EVEN

    share, even = scores[form], scores[f"{EVEN}{form}"]
    return "" if share is None else f"{share:.1%} (even: {even:.1%})"


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
