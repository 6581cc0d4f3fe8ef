"""`sclds verify reference`: one step beside the published implementation's numbers."""

import argparse
import json
from pathlib import Path

from sclds.reference.vectors import TOLERANCE, compare_reference


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("file", metavar="FILE.npz", help="reference vector")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Compare and print; the exit code is 1 if anything differs."""
    comparisons = compare_reference(Path(arguments.file))
    passed = all(c.passed for c in comparisons)
    if arguments.json:
        rows = [
            {"name": c.name, "absolute": c.absolute, "relative": c.relative, "passed": c.passed} for c in comparisons
        ]
        print(json.dumps({"file": arguments.file, "passed": passed, "tolerance": TOLERANCE, "rows": rows}))
        return 0 if passed else 1
    for kind in ("out_", "loss_", "gradnorm."):
        chosen = [c for c in comparisons if c.name.startswith(kind)]
        shown = chosen if kind != "gradnorm." else sorted(chosen, key=lambda c: -c.relative)[:5]
        for c in shown:
            mark = "ok  " if c.passed else "FAIL"
            print(f"{mark} {c.name:48s} absolute {c.absolute:.2e}  relative {c.relative:.2e}")
        if kind == "gradnorm.":
            print(f"     ({len(chosen)} gradient norms, the five worst shown)")
    print(f"{'all within' if passed else 'NOT within'} {TOLERANCE:.0e} relative")
    return 0 if passed else 1
