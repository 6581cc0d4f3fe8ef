"""Microbenchmarks of operations and of the model into one CSV and plots: `python kernels/benchmarks/run.py [name …]`.

On a machine without a GPU the sizes are small and the rows compare PyTorch references with eager code, nothing more.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import harness

from scl_kernels.registry import operations

MODEL = ("attention", "packed_step")
"""Benchmarks beside those of the operations, each a module of its name too."""


def names_of_all() -> tuple[str, ...]:
    """Return the names of all benchmarks."""
    return (*(operation.name for operation in operations()), *MODEL)


def run(
    names: Sequence[str],
    providers: Sequence[str],
    seconds: float,
    limit: float,
    without: Sequence[str] = (),
    keep: Callable[[harness.Measurement], None] = lambda row: None,
) -> tuple[list[harness.Measurement], list[str]]:
    """Measure kernels and print every row.

    Args:
        names: Of `names_of_all`.
        providers: Which; all if empty.
        seconds: How long to repeat each call.
        limit: Seconds for all kernels; each begins no further size after its share of what is left.
        without: Providers that are left out.
        keep: Takes every row as it comes.

    Returns:
        The rows, and a sentence for everything that was left out.

    Raises:
        Exception: At the end, the first that a provider of ours raised.
    """
    wrong: Exception | None = None
    rows: list[harness.Measurement] = []
    left_out: list[str] = []
    end = time.monotonic() + limit
    print(f"{'kernel':16} {'x':>8} {'provider':12} {'mode':8} {'metric':12} {'median':>12} {'q20':>12} {'q80':>12}")
    for number, name in enumerate(names):
        try:
            script = import_module(name)
        except ModuleNotFoundError as missing:
            left_out.append(f"{name}: needs {missing.name}, which is not installed")
            continue
        share = time.monotonic() + (end - time.monotonic()) / (len(names) - number)
        for workload in script.workloads():
            if time.monotonic() > share:
                left_out.append(f"{name} from x={workload.x} on: its share of the time limit is used up")
                break
            chosen = {n: f for n, f in workload.providers.items() if n not in without}
            try:
                for row in harness.measure(name, workload._replace(providers=chosen), providers, seconds, left_out):
                    rows.append(row)
                    keep(row)
                    figures = " ".join(f"{value:12.4g}" for value in (row.median, row.q20, row.q80))
                    where = f"{row.kernel:16} {row.x:8} {row.provider:12} {row.mode:8} {row.metric:12}"
                    print(f"{where} {figures}", flush=True)
            except Exception as fault:  # other sizes are measured all the same
                wrong = wrong or fault
    for sentence in left_out:
        print(f"left out: {sentence}")
    if wrong is not None:
        raise wrong
    return rows, left_out


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
    known = names_of_all()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"any of {', '.join(known)}; all by default")
    parser.add_argument("--providers", nargs="+", default=[], help="only these, for instance ours eager compile")
    parser.add_argument("--without", nargs="+", default=[], help="all but these")
    parser.add_argument("--no-plots", action="store_true", help="only the CSV")
    parser.add_argument("--seconds", type=float, default=0.2, help="how long to repeat each call")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for all; no size is begun after them")
    parser.add_argument("--output", type=Path, default=Path("runs/kernel-benchmarks/benchmarks.csv"))
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in known:
            parser.error(f"no benchmark named {name!r}; choose from {', '.join(known)}")
    harness.refuse_interpreter()
    if harness.device() == "cpu":
        print("No GPU: small sizes on the CPU, PyTorch references instead of kernels; this measures no kernel.")
    with harness.RowFile(options.output) as file:
        rows, left_out = run(
            options.names or known, options.providers, options.seconds, options.limit, options.without, file.keep
        )
    if not rows:
        options.output.unlink()
        print(f"no row was measured; {len(left_out)} left out; is a provider of --providers misspelt?")
        return 1
    print(f"{len(rows)} rows in {options.output}, {len(left_out)} measurements left out")
    if not options.no_plots:
        plots(options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
