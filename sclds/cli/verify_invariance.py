"""`sclds verify invariance`: the same steps in several splits over processes and ZeRO stages."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sclds.cli.arguments import add_config
from sclds.reference.invariance import TOLERANCE, check_invariance


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_config(parser)
    parser.add_argument("--steps", type=int, default=3, help="optimizer steps of each run (default 3)")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4], help="numbers of processes")
    parser.add_argument("--stages", type=int, nargs="+", default=[0, 3], choices=range(4), help="ZeRO stages")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Compare and print; the exit code is 1 beyond `TOLERANCE`."""
    differences = check_invariance(
        Path(arguments.config),
        arguments.overrides,
        arguments.steps,
        arguments.processes,
        arguments.stages,
        Console(stderr=True).print,
    )
    passed = all(difference.passed for difference in differences)
    if arguments.json:
        rows = [asdict(difference) | {"passed": difference.passed} for difference in differences]
        print(json.dumps({"passed": passed, "tolerance": TOLERANCE, "rows": rows}))
        return 0 if passed else 1
    table = Table(title=f"{arguments.steps} steps, compared with {differences[0].way}", title_justify="left")
    for column in ("", "split", "losses", "weights", "the largest of them"):
        table.add_column(column, no_wrap=column != "the largest of them", overflow="fold")
    for d in differences:
        where = "; ".join(w for value, w in ((d.loss, d.loss_where), (d.weight, d.weight_where)) if value)
        table.add_row("ok" if d.passed else "FAIL", d.way, f"{d.loss:.1e}", f"{d.weight:.1e}", where)
    console = Console()
    console.print(table)
    console.print(f"Largest relative differences; {'all within' if passed else 'NOT within'} {TOLERANCE:.0e}")
    return 0 if passed else 1
