"""Find from which size on `auto` should take a kernel instead of its PyTorch reference.

The sizes stand in `crossover.json` and nowhere else; `backend.pays_off` reads them. Unless measured they
are estimates: a kernel pays off where the bytes it saves take longer than the launches it adds. `python -m
scl_kernels.crossover` prints them with their arithmetic; with the CSV that `make gpu-check` wrote they become those of
that GPU:

    python -m scl_kernels.crossover runs/gpu-check/benchmarks.csv
"""

import argparse
import csv
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from scl_kernels.backend import SIZES, smallest_sizes
from scl_kernels.registry import operations
from scl_kernels.roofline import DEVICES, Cost

DEVICE = DEVICES[90]
"""The fastest memory known here, on which saved bytes are worth least."""


def costs() -> dict[str, Cost]:
    """Return what the estimates are made of, for bf16, of the operations whose kernels `auto` leaves at small sizes."""
    return {operation.name: operation.cost() for operation in operations() if operation.cost is not None}


def estimate(cost: Cost) -> int | None:
    """Return the size from which on saved bytes outweigh what the host pays; None where there is no such size."""
    if cost.added_seconds <= 0:
        return 0
    return round(cost.added_seconds * DEVICE.bytes_per_second / cost.saved_bytes) if cost.saved_bytes > 0 else None


def measured(rows: Iterable[Mapping[str, str]]) -> dict[str, int | None]:
    """Return, per operation, the smallest measured size from which on its kernels never lost to the reference.

    Args:
        rows: Lines of a benchmark's CSV; those of the providers `triton` and `reference`, forward and backward
            together, count, and each one's config holds `size`.

    Returns:
        Operations that the lines cover; None where the kernels lost at the largest size.

    Raises:
        ValueError: No line tells of kernels on a GPU.
    """
    medians: dict[str, dict[int, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    known = costs()
    for row in rows:
        of_use = row["mode"] == "full" and row["metric"] == "milliseconds" and not row["device"].startswith("cpu")
        if of_use and row["provider"] in ("triton", "reference") and row["kernel"] in known:
            medians[row["kernel"]][json.loads(row["config"])["size"]][row["provider"]] = float(row["median"])
    found: dict[str, int | None] = {}
    for operation, by_size in medians.items():
        # where the reference ran out of memory there is nothing to lose to
        pairs = {size: m for size, m in by_size.items() if "triton" in m}
        lost = [size for size, m in pairs.items() if m["triton"] > m.get("reference", float("inf"))]
        won = [size for size in pairs if size > max(lost, default=-1)]
        if pairs:
            found[operation] = (min(won) if lost else 0) if won else None
    if not found:
        raise ValueError("the CSV holds no time of provider `triton` on a GPU; write it with make gpu-check")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the sizes and print them."""
    parser = argparse.ArgumentParser(prog="python -m scl_kernels.crossover", description=__doc__.split("\n")[0])
    parser.add_argument("csv", nargs="?", type=Path, help="a GPU's benchmarks.csv; without it only print")
    path: Path | None = parser.parse_args(arguments).csv
    entries = json.loads(SIZES.read_text(encoding="utf-8"))
    if path is not None:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        try:
            found = measured(rows)
        except ValueError as fault:
            sys.stderr.write(f"error: {path}: {fault}\n")
            return 2
        names = {row["device"] for row in rows}
        entries |= {n: {"size": s, "from": f"measured on {', '.join(sorted(names))}"} for n, s in found.items()}
        SIZES.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
        smallest_sizes.cache_clear()
    for name, cost in costs().items():
        entry = entries[name]
        sys.stdout.write(f"{name}: kernels from size {entry['size']} on ({entry['from']})\n")
        sys.stdout.write(
            f"  estimate {estimate(cost)}: {cost.added_seconds * 1e6:.0f} us of the host ({cost.reason}), against "
            f"{cost.saved_bytes:.2g} bytes saved per unit at {DEVICE.name}'s bandwidth\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
