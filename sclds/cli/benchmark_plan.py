"""`sclds benchmark plan`: how far plans are off, on this machine and on published runs."""

from pathlib import Path

import click

from sclds.cli.arguments import FILE, Whole
from sclds.cli.command import Command


@click.command("plan", cls=Command)
@click.option("--published", is_flag=True, help="only predict published runs; nothing is measured")
@click.option("--steps", type=Whole(1, 10_000), default=8, help="steps of each configuration that count")
@click.option("--processes", type=Whole(1, 64), default=2, help="processes of this machine")
@click.option("--out", type=FILE, default="benchmarks", metavar="FOLDER", help="folder for plan.csv, .png and .yaml")
def command(published: bool, steps: int, processes: int, out: Path) -> None:
    """Compare predicted step times with six small runs on this machine's CPU, or with published runs.

    plan.yaml is this machine as a kind for `sclds plan --clusters`.
    """
    if published:
        _print_published()
        return
    from sclds.benchmarks.plan import compare_plans, table

    rows = compare_plans(steps, processes, out)
    print(f"{table(rows)}\nwritten to {out / 'plan.csv'}, plan.png and plan.yaml")


def _pace(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def _print_published() -> None:
    from sclds.cli.printing import Sheet
    from sclds.costs.published import back_test, median_error

    found, sheet = back_test(), Sheet()
    sources = list(dict.fromkeys(row.source for row in found))
    sheet.table(
        ("run", "on", "published", "predicted", "off", "from"),
        [
            (
                row.run.name,
                f"{row.run.gpus:,} × {row.run.kind}",
                _pace(row.run.samples_per_second),
                _pace(row.predicted),
                f"{row.deviation:+.0%}" + (" fitted" if row.run.fit else ""),
                f"[{sources.index(row.source) + 1}]",
            )
            for row in found
        ],
        "Samples/s of published runs",
        right=True,
    )
    judges = [row for row in found if not row.run.fit]
    sheet.text(f"Median error of the {len(judges)} that judge: {median_error(judges):.0%}.")
    for number, source in enumerate(sources, 1):
        sheet.text(f"[{number}] {source}")
    for unknown in dict.fromkeys(row.run.unknown for row in found if row.run.unknown):
        names = ", ".join(dict.fromkeys(row.run.name for row in found if row.run.unknown == unknown))
        sheet.text(f"Not said of {names}: {unknown}.")
