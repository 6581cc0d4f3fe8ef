"""What launchers say of a process: ranks, hosts, and tasks that would each train alone."""

import pytest

from sclds.config.errors import ConfigError
from sclds.train.place import take_ranks, this_place

DEEPSPEED = {"RANK": "9", "LOCAL_RANK": "1", "WORLD_SIZE": "16", "LOCAL_SIZE": "8", "CROSS_SIZE": "2"}
TORCHRUN = {"RANK": "9", "LOCAL_RANK": "1", "WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8", "GROUP_WORLD_SIZE": "2"}
SLURM = {"SLURM_PROCID": "9", "SLURM_LOCALID": "1", "SLURM_NTASKS": "16", "SLURM_NNODES": "2"}
OPENMPI = {
    "OMPI_COMM_WORLD_RANK": "9",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "16",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "8",
}
MEETING = {"MASTER_ADDR": "worker-1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    "given",
    [
        DEEPSPEED,
        TORCHRUN,
        SLURM | {"RANK": "9", "LOCAL_RANK": "1", "WORLD_SIZE": "16"},
        OPENMPI | MEETING,
    ],
    ids=["deepspeed", "torchrun", "slurm", "openmpi"],
)
def test_a_process_knows_its_place(given):
    take_ranks(given := dict(given))
    place = this_place(given)
    assert (place.rank, place.local_rank, place.world_size, place.several_hosts) == (9, 1, 16, True)
    assert place.told("no data") == f"{place.host}: no data"


@pytest.mark.parametrize("given", [{}, DEEPSPEED | {"WORLD_SIZE": "8", "CROSS_SIZE": "1"}, {"SLURM_NNODES": "2"}])
def test_one_host_is_not_named(given):
    assert this_place(dict(given)).told("no data") == "no data"


@pytest.mark.parametrize("given", [SLURM, OPENMPI, {"PMI_SIZE": "2"}, SLURM | MEETING])
def test_tasks_that_would_each_train_alone_are_refused(given):
    with pytest.raises(ConfigError, match="RANK is not set: each of these tasks would train alone"):
        take_ranks(dict(given))
    assert this_place(dict(given)).local_rank == (0 if "PMI_SIZE" in given else 1)


@pytest.mark.parametrize("given", [{}, {"SLURM_NTASKS": "1"}, SLURM | {"RANK": "0"}])
def test_one_process_alone_and_ranks_that_are_set_are_left_as_they_are(given):
    take_ranks(after := dict(given))
    assert after == given
