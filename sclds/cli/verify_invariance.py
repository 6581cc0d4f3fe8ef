"""`sclds verify invariance`: the same steps in several splits over processes and ZeRO stages."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sclds.cli.arguments import Several, Whole, configured
from sclds.cli.command import Command

if TYPE_CHECKING:
    from sclds.reference.invariance import Difference


@click.command("invariance", cls=Command)
@configured
@click.option("--steps", type=Whole(1, 1_000_000), default=3, help="optimizer steps of each run")
@click.option("--processes", cls=Several, type=Whole(1, 4), default=(1, 2, 4), help="numbers of processes")
@click.option("--stages", cls=Several, type=Whole(0, 3), default=(0, 3), help="ZeRO stages")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object")
def command(
    config: str,
    overrides: tuple[str, ...],
    steps: int,
    processes: tuple[int, ...],
    stages: tuple[int, ...],
    as_json: bool,
) -> int:
    """Compare losses and weights of the same steps in several splits over processes and ZeRO stages.

    The exit code is 1 where they differ by more than rounding.
    """
    from sclds.cli.printing import say
    from sclds.reference.invariance import TOLERANCE, check_invariance

    differences = check_invariance(Path(config), list(overrides), steps, processes, stages, say)
    passed = all(difference.passed for difference in differences)
    if as_json:
        rows = [asdict(difference) | {"passed": difference.passed} for difference in differences]
        print(json.dumps({"passed": passed, "tolerance": TOLERANCE, "rows": rows}))
    else:
        _print(differences, steps, passed)
    return 0 if passed else 1


def _print(differences: "list[Difference]", steps: int, passed: bool) -> None:
    from sclds.cli.printing import Sheet
    from sclds.reference.invariance import TOLERANCE

    rows = []
    for d in differences:
        where = "; ".join(w for value, w in ((d.loss, d.loss_where), (d.weight, d.weight_where)) if value)
        rows.append(("ok" if d.passed else "FAIL", d.way, f"{d.loss:.1e}", f"{d.weight:.1e}", where))
    sheet = Sheet()
    headings = ("", "split", "losses", "weights", "the largest of them")
    sheet.table(headings, rows, f"{steps} steps, compared with {differences[0].way}")
    sheet.text(f"Largest relative differences; {'all within' if passed else 'NOT within'} {TOLERANCE:.0e}")
