"""`sclds verify reference`: one step beside the published implementation's numbers."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sclds.cli.command import Command

if TYPE_CHECKING:
    from sclds.reference.vectors import Comparison


@click.command("reference", cls=Command)
@click.argument("file", metavar="FILE.npz")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object")
def command(file: str, as_json: bool) -> int:
    """Compare one step with the published implementation's outputs, losses and gradients in a reference vector.

    The exit code is 1 if anything differs.
    """
    from sclds.reference.vectors import TOLERANCE, compare_reference

    comparisons = compare_reference(Path(file))
    passed = all(c.passed for c in comparisons)
    if as_json:
        rows = [
            {"name": c.name, "absolute": c.absolute, "relative": c.relative, "passed": c.passed} for c in comparisons
        ]
        print(json.dumps({"file": file, "passed": passed, "tolerance": TOLERANCE, "rows": rows}))
        return 0 if passed else 1
    _print(comparisons)
    print(f"{'all within' if passed else 'NOT within'} {TOLERANCE:.0e} relative")
    return 0 if passed else 1


def _print(comparisons: "list[Comparison]") -> None:
    for kind in ("out_", "loss_", "gradnorm."):
        chosen = [c for c in comparisons if c.name.startswith(kind)]
        shown = chosen if kind != "gradnorm." else sorted(chosen, key=lambda c: -c.relative)[:5]
        for c in shown:
            mark = "ok  " if c.passed else "FAIL"
            print(f"{mark} {c.name:48s} absolute {c.absolute:.2e}  relative {c.relative:.2e}")
        if kind == "gradnorm.":
            print(f"     ({len(chosen)} gradient norms, the five worst shown)")
