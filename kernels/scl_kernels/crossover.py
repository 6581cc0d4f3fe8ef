"""Find from which size on `auto` should take a kernel instead of its PyTorch twin.

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
from typing import NamedTuple, get_args

from scl_kernels.backend import SIZES, Operation, smallest_sizes
from scl_kernels.roofline import DEVICES, gather_terms, total

LAUNCH_SECONDS = 6e-6
"""A small eager operation on an idle GPU: what the host needs to issue it."""
OPERATOR_SECONDS = 30e-6
"""What the host needs to enter a custom operator and launch a Triton kernel, beyond an eager operation."""
CAUTION = 2
"""Factor on every estimate, for what the counts leave out."""
DEVICE = DEVICES[90]
"""The fastest memory known here, on which saved bytes are worth least."""


class Cost(NamedTuple):
    """What the host pays for a kernel in a small forward and backward pass, and what the device gains from it."""

    added_seconds: float
    """Of the host, beyond the twin's."""
    reason: str
    """What they are made of."""
    saved_bytes: float
    """Per unit of the operation's size."""


def _gather_cost(kernel_launches: int, twin_launches: int, saved_bytes: float) -> Cost:
    """Return the cost of a kernel of two operators from counted launches."""
    added = (kernel_launches - twin_launches) * LAUNCH_SECONDS + 2 * OPERATOR_SECONDS
    reason = (
        f"{kernel_launches} launches against {twin_launches}, {LAUNCH_SECONDS * 1e6:.0f} us each, and two operators, "
        f"{OPERATOR_SECONDS * 1e6:.0f} us each"
    )
    return Cost(CAUTION * added, f"{CAUTION} times {reason}", saved_bytes)


def costs() -> dict[Operation, Cost]:
    """Return what the estimates are made of, for bf16.

    Launches were counted in the code of both sides for few tokens. The twins check indices in operations of their own,
    the kernels on the way. `gather_rows` saves the pass over the result that puts NaN where an index is bad, in both
    directions. `infonce` stands against its definition, whose N x N matrix in bf16 is read and written 44 times, twice
    per sum, factor and their gradients; its host seconds are half the difference measured on a slow core.
    """
    count = 10_000
    ours, eager = (total(terms) for terms in gather_terms(count, count, 768, 2))
    return {
        "masked_gather": _gather_cost(10, 60, (eager - ours) / (count * 768)),
        "gather_rows": _gather_cost(4, 14, 8.0),
        "infonce": Cost(0.2e-3, "half of 0.9 against 0.5 ms on an EPYC 7003", 2 * 44 / 512),
    }


def estimate(cost: Cost) -> int | None:
    """Return the size from which on saved bytes outweigh what the host pays; None where there is no such size."""
    if cost.added_seconds <= 0:
        return 0
    return round(cost.added_seconds * DEVICE.bytes_per_second / cost.saved_bytes) if cost.saved_bytes > 0 else None


def measured(rows: Iterable[Mapping[str, str]]) -> dict[str, int | None]:
    """Return, per operation, the smallest measured size from which on its kernels never lost to the twin.

    Args:
        rows: Lines of a benchmark's CSV; those of the providers `triton` and `twin`, forward and backward together,
            count, and each one's config holds `size`.

    Returns:
        Operations that the lines cover; None where the kernels lost at the largest size.

    Raises:
        ValueError: No line tells of kernels on a GPU.
    """
    medians: dict[str, dict[int, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        of_use = row["mode"] == "full" and row["metric"] == "milliseconds" and not row["device"].startswith("cpu")
        if of_use and row["provider"] in ("triton", "twin") and row["kernel"] in get_args(Operation):
            medians[row["kernel"]][json.loads(row["config"])["size"]][row["provider"]] = float(row["median"])
    found: dict[str, int | None] = {}
    for operation, by_size in medians.items():
        # where the twin ran out of memory there is nothing to lose to
        pairs = {size: m for size, m in by_size.items() if "triton" in m}
        lost = [size for size, m in pairs.items() if m["triton"] > m.get("twin", float("inf"))]
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
    entries = json.loads(SIZES.read_text())
    if path is not None:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        try:
            found = measured(rows)
        except ValueError as fault:
            sys.stderr.write(f"error: {path}: {fault}\n")
            return 2
        names = {row["device"] for row in rows}
        entries |= {n: {"size": s, "from": f"measured on {', '.join(sorted(names))}"} for n, s in found.items()}
        SIZES.write_text(json.dumps(entries, indent=1) + "\n")
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
