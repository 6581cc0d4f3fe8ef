"""The entry of `environment.json` that a start of a run writes, and brings up to date at every checkpoint."""

import contextlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import torch

from sclds.config.errors import UserError
from sclds.costs.matmul import measure_peak_flops
from sclds.losses.communicator import gather_records
from sclds.machine.description import git_state, peak_memory, this_process, versions
from sclds.run.environment import Git, Host, Start
from sclds.run.folder import RunFolder
from sclds.train.distributed import ProcessGroup


class StartRecord:
    """Writes where, with what, how fast and how long this start ran; every rank calls it, rank 0 writes.

    Args:
        folder: The run's.
        group: All processes.
        parameters: Weights of the model.
        step: Steps done before.
        say: Is told what of an older file is damaged.
        dtype: In which the model computes.
    """

    def __init__(
        self,
        folder: RunFolder,
        group: ProcessGroup,
        parameters: int,
        step: int,
        say: Callable[[str], None],
        dtype: torch.dtype,
    ):
        self._folder, self._group = folder, group
        processes = gather_records(this_process(group.device), group, group.device)
        now = _now()
        self._entry = Start(
            started=now,
            last_seen=now,
            ended=None,
            first_step=step,
            last_step=step,
            versions=versions(),
            git=Git(**state) if (state := git_state()) else None,
            hosts=hosts_of(processes),
            world_size=group.world_size,
            parameters=parameters,
            peak_host_bytes=0,
            peak_device_bytes=0,
        )
        problems: list[str] = []
        self._before = folder.read_starts(problems) if group.rank == 0 else []
        for problem in problems:
            say(problem)
        self.hosts = [process["name"] for process in processes]
        """Of every rank."""
        self.peak_flops = self._entry.peak_flops = self._known_peak() or measured_peak(group, dtype)
        """FLOPs per second of all processes together."""
        self.update(step)

    def _known_peak(self) -> float | None:
        """Return what an earlier start on such machines measured, on all ranks alike."""
        here = _machines(self._entry)
        alike = [start.peak_flops for start in self._before if start.peak_flops and _machines(start) == here]
        known: float | None = self._group.from_first(alike[-1] if alike else None)
        return known

    def update(self, step: int, outcome: str | None = None) -> None:
        """Note the steps done and the memory taken so far; with `outcome`, that this start has ended orderly."""
        peaks = self._group.all_gather(torch.tensor(peak_memory(self._group.device), device=self._group.device))
        self._entry.peak_host_bytes, self._entry.peak_device_bytes = peaks.amax(0).tolist()
        self._write(step, outcome)

    def fail(self, step: int, reason: str) -> None:
        """Note that this start failed; without the other processes, which may be gone."""
        with contextlib.suppress(UserError):  # the reason itself is about to be told
            self._write(step, f"failed: {reason}")

    def _write(self, step: int, outcome: str | None) -> None:
        if self._group.rank != 0:
            return
        self._entry.last_seen, self._entry.last_step = _now(), step
        if outcome is not None:
            self._entry.ended, self._entry.outcome = self._entry.last_seen, outcome
        self._folder.write_starts([*self._before, self._entry])


def measured_peak(group: ProcessGroup, dtype: torch.dtype) -> float:
    """Return the matmul FLOPs per second of all processes, which multiply at once, as they do in training."""
    group.barrier()
    return float(group.gather_counts([round(measure_peak_flops(dtype, group.device))]).sum())


def _machines(start: Start) -> list[tuple[Any, ...]]:
    """Return what of the machines decides how fast they multiply: all but their names."""
    return sorted((host.cpu, host.cores, host.gpu, host.gpus, host.processes) for host in start.hosts)


def hosts_of(processes: list[dict[str, Any]]) -> list[Host]:
    """Return the machines of all processes, with how many processes and GPUs the run has on each."""
    hosts: dict[str, Host] = {}
    for process in processes:
        host = hosts.setdefault(process["name"], Host(**process, processes=0, gpus=0))
        host.processes += 1
        host.gpus += bool(process["gpu"])
    return list(hosts.values())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
