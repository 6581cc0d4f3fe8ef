"""Goodput of a cluster whose parts fail: the best interval between checkpoints in closed form, beside a simulation.

Failures come at an exponential rate that grows with the number of GPUs. A failure costs the work since the last
checkpoint, the time until it is noticed, and the time until the first step after a restart, in which the next one may
come. Young (1974) gives the best interval to first order, Daly (2006, "A higher order estimate of the optimum
checkpoint interval for restart dumps") to a higher one, and the expected time of a run.
"""

import math
import random
from dataclasses import dataclass

MTTF_HOURS = 7.9
"""Mean time to failure of a job on `MTTF_GPUS` GPUs: Meta, "Revisiting Reliability in Large-Scale Machine Learning
Research Clusters" (2024, arXiv 2410.21680); taken to be inversely proportional to the number of GPUs."""
MTTF_GPUS = 1024
_FAILURES = 20_000
"""That are simulated: the error of the mean is below a hundredth of what failures cost."""


@dataclass(frozen=True)
class Costs:
    """Seconds of what a run does about failures."""

    stall: float
    """Training waits for one checkpoint."""
    restart: float
    """From the end of the processes to the first step."""
    detection: float
    """From a failure to the end of the processes."""


def mean_seconds_between_failures(gpus: int, hours: float = MTTF_HOURS) -> float:
    """Return the mean time to failure of a job on `gpus` GPUs.

    Args:
        gpus: Of the job.
        hours: Of a job on `MTTF_GPUS`.
    """
    return hours * 3600 * MTTF_GPUS / gpus


def young_interval(stall: float, mean: float) -> float:
    """Return the seconds of work between checkpoints that cost least, to first order."""
    return math.sqrt(2 * stall * mean)


def daly_interval(stall: float, mean: float) -> float:
    """Return the same to a higher order."""
    if stall >= 2 * mean:
        return mean
    ratio = stall / (2 * mean)
    return young_interval(stall, mean) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - stall


def expected_goodput(interval: float, costs: Costs, mean: float) -> float:
    """Return the share of the time that is work which stands, for exponential failures (Daly)."""
    lost = costs.detection + costs.restart
    return interval / (mean * math.exp(lost / mean) * math.expm1((interval + costs.stall) / mean))


def simulated_goodput(interval: float, costs: Costs, mean: float, seed: int = 0, failures: int = _FAILURES) -> float:
    """Return the same share, found by living through `failures` failures.

    Args:
        interval: Seconds of work between checkpoints.
        costs: Of the run.
        mean: Seconds between failures.
        seed: Of the failures' times.
        failures: How many.
    """
    draw = random.Random(seed)
    stands = clock = 0.0
    for _ in range(failures):
        left = draw.expovariate(1 / mean)
        clock += left
        whole = math.floor(left / (interval + costs.stall))
        stands += whole * interval
        away = costs.detection + costs.restart
        while (until_next := draw.expovariate(1 / mean)) < away:  # another failure before the first step
            clock += until_next
        clock += away
    return stands / clock
