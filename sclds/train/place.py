"""Which process of a run this is, as the launcher's environment says; neither torch nor DeepSpeed is needed for it."""

import os
import socket
from collections.abc import MutableMapping
from dataclasses import dataclass

from sclds.config.errors import ConfigError

_OPENMPI = {
    "RANK": "OMPI_COMM_WORLD_RANK",
    "LOCAL_RANK": "OMPI_COMM_WORLD_LOCAL_RANK",
    "WORLD_SIZE": "OMPI_COMM_WORLD_SIZE",
}
"""What torch reads, and what OpenMPI calls it."""
_LOCAL_RANKS = ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID")
_LOCAL_SIZES = ("LOCAL_WORLD_SIZE", "LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE")
_HOSTS = ("CROSS_SIZE", "GROUP_WORLD_SIZE", "SLURM_NNODES")
"""Number of hosts: by DeepSpeed's launcher, by torchrun, by Slurm."""
_TASKS = {
    "SLURM_NTASKS": "RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS, MASTER_ADDR and "
    "MASTER_PORT, as configs/cluster/pretrain.sbatch does",
    "OMPI_COMM_WORLD_SIZE": "MASTER_ADDR and MASTER_PORT (mpirun -x), as sclds launch --launcher openmpi does",
    "PMI_SIZE": "RANK=$PMI_RANK LOCAL_RANK=$MPI_LOCALRANKID WORLD_SIZE=$PMI_SIZE, MASTER_ADDR and MASTER_PORT",
}
"""What starts tasks that know nothing of each other, and what they need to be one run."""


@dataclass(frozen=True)
class Place:
    """A process among those of its run."""

    rank: int
    local_rank: int
    world_size: int
    local_size: int | None
    """Processes of this host; None if the launcher does not say."""
    several_hosts: bool
    host: str

    def told(self, text: str) -> str:
        """Return a message with the host's name before it where a run has several."""
        return f"{self.host}: {text}" if self.several_hosts else text


def this_place(environment: MutableMapping[str, str] | None = None) -> Place:
    """Return the place that an environment, this process's by default, gives."""
    given = os.environ if environment is None else environment
    world_size = _first(given, ("WORLD_SIZE",)) or 1
    local_size = _first(given, _LOCAL_SIZES)
    several = "RANK" in given and (
        any((_first(given, (name,)) or 1) > 1 for name in _HOSTS)
        or (local_size is not None and local_size < world_size)
    )
    rank, local_rank = _first(given, ("RANK",)) or 0, _first(given, _LOCAL_RANKS) or 0
    return Place(rank, local_rank, world_size, local_size, several, socket.gethostname())


def take_ranks(environment: MutableMapping[str, str] | None = None) -> None:
    """Give a task that mpirun started its rank; refuse tasks of which each would train alone.

    Raises:
        ConfigError: Several tasks were started, and nothing says which rank this one has or where they meet.
    """
    given = os.environ if environment is None else environment
    if "RANK" in given:
        return
    meeting = "MASTER_ADDR" in given and "MASTER_PORT" in given
    if meeting and all(name in given for name in _OPENMPI.values()):
        given.update({ours: given[theirs] for ours, theirs in _OPENMPI.items()})
        return
    for name, needed in _TASKS.items():
        if (_first(given, (name,)) or 1) > 1:
            raise ConfigError(
                [
                    f"{name}={given[name]}, but RANK is not set: each of these tasks would train alone, in the same "
                    f"run folder; give each {needed}. For a run of one process, unset {name}"
                ]
            )


def _first(given: MutableMapping[str, str], names: tuple[str, ...]) -> int | None:
    return next((int(given[name]) for name in names if given.get(name, "").isdecimal()), None)
