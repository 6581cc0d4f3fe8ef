"""One of the processes of `sclds benchmark plan`: what this machine multiplies, copies, sends and reads."""

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from sclds.batch.split import split_batch
from sclds.config.reading import load_config
from sclds.costs.matmul import measure_peak_flops
from sclds.data.loader import TrainingBatches
from sclds.data.tokenizer import load_tokenizer
from sclds.run.files import write_atomically
from sclds.train.distributed import ProcessGroup

COPIED = 64 * 2**20
"""Bytes of a tensor that is added to another: more than the caches hold."""
SMALL, LARGE = 1024, 32 * 2**20
"""Bytes that a process gives to a message."""
TURNS = 7
BATCHES = 3


def measure(cases: dict[str, Sequence[str]], group: ProcessGroup) -> dict[str, Any]:
    """Return the figures of `sclds.benchmarks.plan.Measured`, all processes at once; the slowest process counts.

    Args:
        cases: Settings over the quickstart by name, of which reading is timed.
        group: All processes.
    """
    group.barrier()
    peak = measure_peak_flops(torch.float32, torch.device("cpu"))
    group.barrier()
    left, right, out = (torch.ones(COPIED // 4) for _ in range(3))
    bandwidth = 3 * COPIED / _fastest(lambda: torch.add(left, right, out=out))
    group.barrier()
    small, large = (_fastest(_gather(group, size)) for size in (SMALL, LARGE))
    received = (LARGE - SMALL) * (group.world_size - 1)
    link = received / max(large - small, 1e-9)
    reading = {name: _reading_seconds(settings, group) for name, settings in cases.items()}
    found = {"peak_flops": peak, "bandwidth": bandwidth, "link": link}
    everybody = group.gather_objects(found | {"message_seconds": small, "core_seconds": reading})
    return {
        **{name: min(of[name] for of in everybody) for name in found},
        "message_seconds": max(of["message_seconds"] for of in everybody),
        "core_seconds": {name: statistics.fmean(of["core_seconds"][name] for of in everybody) for name in reading},
    }


def _fastest(act: Callable[[], object]) -> float:
    """Return the seconds of the fastest of some turns, after one that warms up."""
    act()
    seconds = []
    for _ in range(TURNS):
        begun = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def _gather(group: ProcessGroup, size: int) -> Callable[[], object]:
    tensor = torch.ones(size // 4)
    return lambda: group.all_gather(tensor)


def _reading_seconds(settings: Sequence[str], group: ProcessGroup) -> float:
    """Return the processor time of reading and packing one sample, by all threads of this process."""
    config = load_config("quickstart", list(settings))
    split = split_batch(config.batch, group.world_size)
    tokenizer = load_tokenizer(config.data.tokenizer)
    batches = iter(TrainingBatches(config, tokenizer, group.rank, group.world_size, split.micro, split.accumulation))
    next(batches)
    begun = time.process_time()
    for _ in islice(batches, BATCHES):
        pass
    taken = time.process_time() - begun
    batches.close()  # type: ignore[attr-defined]  # a generator
    return taken / (BATCHES * split.micro * split.accumulation)


def main() -> None:
    """Measure as the arguments say (cases as JSON, the file that rank 0 writes)."""
    cases, file = sys.argv[-2:]  # the launcher puts --local_rank in front
    group = ProcessGroup()
    try:
        found = measure(json.loads(cases), group)
        if group.rank == 0:
            write_atomically(Path(file), json.dumps(found))
        group.barrier()
    finally:
        group.close()


if __name__ == "__main__":
    main()
