"""Kernel microbenchmarks into one CSV and plots: `python kernels/benchmarks/run.py [masked_gather] [infonce]`.

On a machine without a GPU the sizes are small and the rows compare the PyTorch twins with eager code, nothing more.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import harness

KERNELS = ("masked_gather", "infonce")


def run(names: Sequence[str], providers: Sequence[str], seconds: float, limit: float) -> list[harness.Row]:
    """Measure kernels and print every row.

    Args:
        names: Kernels, as in KERNELS.
        providers: As in `harness.PROVIDERS`.
        seconds: How long to repeat each call.
        limit: Seconds after which no further size is begun.
    """
    rows, end = [], time.monotonic() + limit
    print(f"{'kernel':14} {'x':>8} {'provider':8} {'mode':8} {'metric':12} {'median':>12} {'q20':>12} {'q80':>12}")
    for name in names:
        for workload in import_module(name).workloads():
            if time.monotonic() > end:
                print(f"{name} from x={workload.x} on: left out, the limit of {limit:.0f} s is reached")
                break
            for row in harness.measure(name, workload, providers, seconds):
                rows.append(row)
                figures = " ".join(f"{value:12.4g}" for value in (row.median, row.q20, row.q80))
                print(f"{name:14} {row.x:8} {row.provider:8} {row.mode:8} {row.metric:12} {figures}", flush=True)
    return rows


def plots(path: Path) -> None:
    """Draw the CSV where matplotlib is installed, else say that it is not."""
    try:
        from plot import draw
    except ImportError:
        print("no plots: matplotlib is not installed (pip install matplotlib, then run plot.py on the CSV)")
        return
    print(f"{len(draw(path))} plots beside {path}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"any of {', '.join(KERNELS)}; all by default")
    parser.add_argument("--providers", nargs="+", choices=harness.PROVIDERS, default=list(harness.PROVIDERS))
    parser.add_argument("--seconds", type=float, default=0.2, help="how long to repeat each call")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds after which no further size is begun")
    parser.add_argument("--output", type=Path, default=Path("runs/kernel-benchmarks/benchmarks.csv"))
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in KERNELS:
            parser.error(f"no benchmark named {name!r}; choose from {', '.join(KERNELS)}")
    harness.refuse_interpreter()
    if harness.device() == "cpu":
        print("No GPU: small sizes on the CPU, PyTorch twins instead of kernels; this measures no kernel.")
    rows = run(options.names or KERNELS, options.providers, options.seconds, options.limit)
    harness.write(options.output, rows)
    print(f"{len(rows)} rows in {options.output}")
    plots(options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
