"""What checkpoints and failures take of a planned run: size and time of a checkpoint, the best interval, goodput."""

from dataclasses import dataclass
from typing import Any

from sclds.costs.clusters import Cluster
from sclds.costs.failures import (
    MTTF_GPUS,
    Costs,
    daly_interval,
    expected_goodput,
    mean_seconds_between_failures,
    simulated_goodput,
)

RESTART_SECONDS, DETECTION_SECONDS = 120.0, 10.0
"""From the end of the processes to the first step, and from a failure to their end; the defaults of `sclds benchmark
goodput`. The page of a run has its own."""
WRITE_BYTES = 1e9
"""Bytes per second that a machine writes to storage, assumed; checkpoints are written beside training, so that this
bounds how often there can be one (docs/bad_days.md)."""


@dataclass(frozen=True)
class Goodput:
    """Checkpoints and failures of a run."""

    checkpoint_bytes: int
    """Of all ranks together."""
    stall: float
    """Seconds that training waits for the copy into the hosts' memory."""
    writing: float
    """Seconds until it lies in storage."""
    between_failures: float
    """Mean seconds."""
    interval: float
    """Seconds of work between checkpoints as configured."""
    best_interval: float
    """By Daly's formula, but no shorter than writing takes."""
    share: float
    """Of the time, work that stands, as configured."""
    best_share: float
    simulated_share: float
    """The same as `best_share`, by living through failures."""


def checkpoint_bytes(parameters: int, precision: str) -> int:
    """Return the bytes of a checkpoint: fp32 weights and two moments, and the weights in bf16 beside them."""
    return parameters * (14 if precision == "bf16" else 12)


def goodput_of(cluster: Cluster, size: int, interval: float, failures: int = 2000) -> Goodput:
    """Return what checkpoints and failures take.

    Args:
        cluster: Where.
        size: Bytes of a checkpoint.
        interval: Seconds of work between checkpoints, as configured.
        failures: That are simulated.
    """
    stall = size / cluster.gpus / cluster.kind.host_link
    writing = size / cluster.nodes / WRITE_BYTES
    costs = Costs(stall, RESTART_SECONDS, DETECTION_SECONDS)
    mean = mean_seconds_between_failures(cluster.gpus, cluster.kind.mttf_hours)
    best = max(daly_interval(stall, mean), writing)
    return Goodput(
        size,
        stall,
        writing,
        mean,
        interval,
        best,
        expected_goodput(interval, costs, mean),
        expected_goodput(best, costs, mean),
        simulated_goodput(best, costs, mean, failures=failures),
    )


def goodput_tree(found: Goodput, step: float) -> dict[str, Any]:
    """Return it for JSON.

    Args:
        found: Of a run.
        step: Seconds of a step.
    """
    return {
        "checkpoint_bytes": found.checkpoint_bytes,
        "checkpoint_stall_seconds": found.stall,
        "checkpoint_write_seconds": found.writing,
        "seconds_between_failures": found.between_failures,
        "failures_counted_on": MTTF_GPUS,
        "checkpoint_seconds": found.interval,
        "best_checkpoint_seconds": found.best_interval,
        "best_checkpoint_steps": max(1, round(found.best_interval / step)),
        "goodput": found.share,
        "best_goodput": found.best_share,
        "simulated_goodput": found.simulated_share,
    }
