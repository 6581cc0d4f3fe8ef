"""`sclds doctor`: what this machine has, what it lacks, what that costs, and the command that fixes it."""

import json
from collections.abc import Collection
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from sclds.cli.command import Command

if TYPE_CHECKING:
    from sclds.machine.examination import Finding

_MARKS = {"ok": ("ok", "green"), "optional": ("without", "yellow"), "missing": ("MISSING", "red")}


@click.command("doctor", cls=Command)
@click.option("--json", "as_json", is_flag=True, help="print one JSON object")
def command(as_json: bool) -> int:
    """Say what is installed, what is missing, what that costs and how to fix it.

    The exit code is 0 where pre-training can run.
    """
    from sclds.machine.examination import examine

    findings = examine(_collectives)
    ready = all(finding.state != "missing" for finding in findings)
    if as_json:
        print(json.dumps({"ready": ready, "findings": [asdict(f) for f in findings]}))
    else:
        _print(findings, ready)
    return 0 if ready else 1


def _collectives() -> Collection[str]:
    """Return the communication libraries of torch; DeepSpeed warns on what is standard output when it is imported."""
    import contextlib
    import sys

    with contextlib.redirect_stdout(sys.stderr):
        from sclds.train.distributed import available_collectives

    return available_collectives()


def _print(findings: "list[Finding]", ready: bool) -> None:
    from rich.text import Text

    from sclds.cli.printing import Sheet

    sheet = Sheet()
    rows = []
    for f in findings:
        mark, color = _MARKS[f.state]
        lack = ": ".join(text for text in (f.cost, f.remedy) if text)
        rows.append((Text(mark, color), f.name, f"{f.found}\n{lack}" if lack else f.found))
    sheet.table(("", "what", "found; what its lack costs, and the remedy"), rows, framed=False)
    sheet.text("\nPre-training can run here." if ready else "\nPre-training cannot run here: fix what is MISSING.")
