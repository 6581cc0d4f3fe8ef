"""One of the processes of `sclds benchmark plan`: what this machine multiplies, copies and sends, and steps."""

import statistics
import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch

from sclds.batch.split import split_batch
from sclds.benchmarks.worker import work
from sclds.config.reading import load_config
from sclds.data.loader import TrainingBatches
from sclds.data.tokenizer import load_tokenizer
from sclds.machine.implementations import choose, use
from sclds.train.distributed import ProcessGroup
from sclds.train.engine import build_engine
from sclds.train.measuring import Limit
from sclds.train.step import train_step

COPIED = 64 * 2**20
"""Bytes of a tensor that is added to another: more than the caches hold."""
SMALL, LARGE = 1024, 32 * 2**20
"""Bytes that a process gives to a message."""
SHAPES = (
    (1024, 1024, 1024),
    (2048, 128, 384),
    (2048, 128, 512),
    (2048, 512, 128),
    (2048, 256, 1024),
    (2048, 1024, 256),
)
"""Products that are measured, (rows, inner) by (inner, outer): a large one, and those of narrow layers."""
TURNS = 7
WARM_UP = 2


def measure(cases: dict[str, Sequence[str]], steps: int, group: ProcessGroup, limit: Limit) -> dict[str, Any]:
    """Return the figures of `sclds.benchmarks.plan.Measured`, means over the processes.

    Args:
        cases: Settings over the quickstart by name.
        steps: Of each case that count.
        group: All processes.
        limit: Holds each step to its limit.
    """
    group.barrier()
    peak, operand_bandwidth = _products()
    left, right, out = (torch.ones(COPIED // 4) for _ in range(3))
    found = {
        "peak_flops": peak,
        "operand_bandwidth": operand_bandwidth,
        "bandwidth": 3 * COPIED / _fastest(lambda: torch.add(left, right, out=out)),
    }
    group.barrier()
    small, large = (_fastest(_sum(group, size)) for size in (SMALL, LARGE))
    received = 2 * (LARGE - SMALL) * (group.world_size - 1) / group.world_size
    found["message_seconds"], found["link"] = small, received / max(large - small, 1e-9)
    everybody = group.gather_objects(found | {"step_seconds": _step_seconds(cases, steps, group, limit)})
    return {
        **{name: statistics.fmean(of[name] for of in everybody) for name in found},
        "step_seconds": {name: statistics.fmean(of["step_seconds"][name] for of in everybody) for name in cases},
    }


def _products() -> tuple[float, float]:
    """Return the operations per second of products, and the bytes per second of their operands.

    The time of each shape is taken as the sum of both terms (`sclds.costs.predict`), and the two rates as those that
    meet all shapes best, each in proportion to its own time.
    """
    rates = np.array([_rates(*shape) for shape in SHAPES])
    found = np.linalg.lstsq(rates, np.ones(len(rates)), rcond=None)[0]
    # a rate that noise makes negative or endless counts as ten times the best that any shape reached
    per_operation, per_byte = np.maximum(found, 0.1 / rates.max(axis=0)).tolist()
    return 1 / per_operation, 1 / per_byte


def _rates(rows: int, inner: int, outer: int) -> tuple[float, float]:
    """Return operations and bytes of operands per second of one product."""
    left, right = torch.randn(rows, inner), torch.randn(inner, outer)
    seconds = _fastest(lambda: torch.mm(left, right))
    return 2 * rows * inner * outer / seconds, 4 * (rows * inner + inner * outer + rows * outer) / seconds


def _fastest(act: Callable[[], object]) -> float:
    """Return the processor seconds of the fastest of some turns, after one that warms up."""
    act()
    seconds = []
    for _ in range(TURNS):
        begun = time.process_time()
        act()
        seconds.append(time.process_time() - begun)
    return min(seconds)


def _sum(group: ProcessGroup, size: int) -> Callable[[], object]:
    """Return what adds up a tensor of all processes, as gradients are, the largest messages of a step."""
    tensor = torch.ones(size // 4)
    return lambda: group.all_reduce_sum(tensor)


def _step_seconds(cases: dict[str, Sequence[str]], steps: int, group: ProcessGroup, limit: Limit) -> dict[str, float]:
    """Return the processor seconds of a step of every case, which take turns; the median."""
    takers = {name: _taker(settings, WARM_UP + steps, group) for name, settings in cases.items()}
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for step in range(WARM_UP + steps):
        for name in sorted(cases, reverse=bool(step % 2)):
            begun = time.process_time()
            with limit("the step", "step"):
                takers[name](step)
            seconds[name].append(time.process_time() - begun)
    return {name: statistics.median(of[WARM_UP:]) for name, of in seconds.items()}


def _taker(settings: Sequence[str], steps: int, group: ProcessGroup) -> Callable[[int], object]:
    """Return what takes a step of a case, on samples that are read before."""
    config = load_config("quickstart", list(settings))
    use(choose(config))
    split, tokenizer = split_batch(config.batch, group.world_size), load_tokenizer(config.data.tokenizer)
    engine = build_engine(config, tokenizer, split, group)
    training = TrainingBatches(config, tokenizer, group.rank, group.world_size, split.micro, split.accumulation)
    reading = iter(training)
    read = list(islice(reading, steps))
    reading.close()  # type: ignore[attr-defined]  # a generator
    return lambda step: train_step(engine, read[step], step, config, split, group)


if __name__ == "__main__":
    work(measure)
