"""The figures of speed that stand in every line of the metrics: phases, MFU, pace, bytes, memory, and the ranks.

Every rank counts on its host while steps run; where a line is due, one small exchange from host to host brings the
counts of all ranks together. What a device has not finished by then counts to the next line, so that nobody waits.
"""

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

import numpy as np

from sclds.batch import Batch
from sclds.batch.sizes import Sizes, sizes_of_all
from sclds.batch.split import Split
from sclds.config import Config
from sclds.costs.utilization import FlopCounter, data_sheet_flops, gpu_name
from sclds.machine.description import peak_memory
from sclds.machine.phase_clock import LOSS, PHASES, STAGES, WAITS, PhaseClock, StepTime
from sclds.objectives import objectives_in_use
from sclds.train.distributed import ProcessGroup
from sclds.train.messages import KINDS, Traffic

NANO = 1e-9
OWN_STAGES = ("forward", "backward")
"""Stages in which the host asks the device for work and never waits for it."""


@dataclass(frozen=True)
class RankTimes:
    """How the ranks differ: mean seconds of a step in which each of them worked, and did not wait for others."""

    hosts: tuple[str, ...]
    """By rank."""
    phases: dict[str, Sequence[float]]
    """Seconds by phase and rank, those of waiting left out."""

    @property
    def seconds(self) -> list[float]:
        """Seconds of work by rank."""
        return [sum(of_rank) for of_rank in zip(*self.phases.values(), strict=True)]

    @property
    def median(self) -> float:
        """The middle rank's seconds, of two middle ones the smaller: so a slow rank beside one other is seen."""
        return sorted(self.seconds)[(len(self.hosts) - 1) // 2]

    def phase_of(self, rank: int) -> str:
        """Return the phase in which a rank lies furthest behind the middle of the ranks."""
        middle = (len(self.hosts) - 1) // 2
        return max(self.phases, key=lambda name: self.phases[name][rank] - sorted(self.phases[name])[middle])

    def summary(self) -> dict[str, Any]:
        """Return what a line of the metrics says of them."""
        rank = int(np.argmax(self.seconds))
        return {
            "min": min(self.seconds),
            "median": self.median,
            "max": max(self.seconds),
            "rank": rank,
            "host": self.hosts[rank],
            "phase": self.phase_of(rank) if len(self.hosts) > 1 else None,
        }


class StepMeasures:
    """Counts steps and turns them into figures; every rank calls it alike.

    Args:
        config: The run.
        split: Of its batch.
        group: All processes.
        hosts: Of every rank.
        peak_flops: FLOPs per second that all processes together were measured to reach, if they were.
    """

    def __init__(
        self, config: Config, split: Split, group: ProcessGroup, hosts: Sequence[str], peak_flops: float | None
    ):
        self._group, self._hosts, self._measured = group, tuple(hosts), peak_flops
        self._flops = FlopCounter(config, split.accumulation)
        sheet = data_sheet_flops(gpu_name(group.device), config.engine.precision)
        self._sheet = sheet * group.world_size if sheet else None
        self._phases = (*PHASES, *(LOSS + objective.name for objective in objectives_in_use(config.losses)))
        self.clock = PhaseClock(group.device)
        self.ranks: RankTimes | None = None
        """Of the last figures."""
        self._forget()

    def add(self, micro_batches: Sequence[Batch]) -> None:
        """Count a step that has ended, and read the steps that the device has done."""
        self._sizes += sizes_of_all(micro_batches)
        self._steps += 1
        self._times += self.clock.taken()

    def table(self) -> list[list[float]]:
        """Return this rank's seconds of the steps since the last figures, by step and phase, in the order of these."""
        self._times += self.clock.taken()
        return [[time.phases.get(name, 0.0) for name in self._phases] for time in self._times]

    def figures(self, samples_per_second: float) -> dict[str, Any]:
        """Return the figures of the steps since the last call, means over steps and ranks; all ranks meet here.

        Args:
            samples_per_second: Pace of all ranks together, by the clock on the wall.
        """
        self._times += self.clock.taken()
        traffic = self._group.messages.taken()
        table = self._group.gather_counts(self._row(traffic)).astype(np.float64)
        columns = iter(np.split(table, table.shape[1], axis=1))
        sizes = Sizes(*(int(next(columns).sum()) for _ in fields(Sizes)))
        taken, timed, memory, in_flight = (next(columns) for _ in range(4))
        received = {kind: float(np.mean(next(columns) / np.maximum(taken, 1))) for kind in KINDS}
        per_step = NANO / np.maximum(timed, 1)
        host, *by_phase = (column * per_step for column in columns)
        phases = {name: by_phase[k].ravel() for k, name in enumerate(self._phases)}
        stages = {name: by_phase[len(phases) + k].ravel() for k, name in enumerate(STAGES)}
        self.ranks = RankTimes(self._hosts, {n: v.tolist() for n, v in phases.items() if n not in WAITS})
        waited = sum(float(phases[name].mean()) for name in WAITS if name != "exchange")
        flying = float((in_flight * per_step).mean())
        self._forget()
        return {
            "phases": {name: float(of.mean()) for name, of in phases.items()},
            "stages": {name: float(of.mean()) for name, of in stages.items()},
            "samples_per_second": samples_per_second,
            **self._speed(sizes, samples_per_second),
            "wire_bytes": sum(received.values()),
            "wire": received,
            "memory_bytes": int(memory.max()),
            "padding_avoided": sizes.padding_avoided,
            "overlap": min(1.0, max(0.0, 1 - waited / flying)) if flying and len(self._hosts) > 1 else None,
            "host_seconds": float(host.mean()),
            "ranks": self.ranks.summary(),
        }

    def _speed(self, sizes: Sizes, samples_per_second: float) -> dict[str, Any]:
        """Return shares of the peak, and tokens a second, at a pace."""
        samples = max(1, sizes.images + sizes.videos)
        flops, per_second = self._flops.of(sizes), samples_per_second / samples

        def share(of: float, peak: float | None) -> float | None:
            return of * per_second / peak if peak else None

        return {
            "mfu": share(flops.model, self._sheet),
            "mfu_measured": share(flops.model, self._measured),
            "hfu": share(flops.hardware, self._sheet),
            "hfu_measured": share(flops.hardware, self._measured),
            "flops_per_sample": flops.model / samples,
            "tokens_per_second": sizes.tokens * per_second,
        }

    def _row(self, traffic: Traffic) -> list[int]:
        """Return this rank's counts, whole numbers in one fixed order; seconds as nanoseconds."""
        host = sum(time.host.get(stage, 0.0) for time in self._times for stage in OWN_STAGES)
        seconds = [traffic.seconds, host]
        seconds += [_total(self._times, "phases", name) for name in self._phases]
        seconds += [_total(self._times, "stages", name) for name in STAGES]
        in_flight, *rest = (round(one / NANO) for one in seconds)
        on_host, on_device = peak_memory(self._group.device)
        counts = [self._steps, len(self._times), on_device or on_host, in_flight]
        return [*astuple(self._sizes), *counts, *(traffic.received[kind] for kind in KINDS), *rest]

    def _forget(self) -> None:
        self._sizes, self._steps, self._times = Sizes(), 0, list[StepTime]()


def _total(times: Sequence[StepTime], kind: str, name: str) -> float:
    return math.fsum(getattr(time, kind).get(name, 0.0) for time in times)
