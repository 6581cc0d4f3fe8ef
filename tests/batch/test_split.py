import pytest

from sclds.batch.split import Split, split_batch
from sclds.config import BatchConfig
from sclds.config.errors import ConfigError


@pytest.mark.parametrize(
    ("global_size", "most", "group", "world", "expected"),
    [
        (128, 64, 16, 1, (64, 2)),
        (128, 64, 16, 2, (64, 1)),
        (128, 64, 16, 4, (32, 1)),
        (128, 40, 16, 2, (32, 2)),
        (4096, 64, 8, 64, (64, 1)),
        (4096, 24, 8, 1, (16, 256)),
        (96, 64, 16, 1, (48, 2)),
    ],
)
def test_takes_the_largest_micro_batch_that_divides(global_size, most, group, world, expected):
    batch = BatchConfig(global_size=global_size, max_micro_size=most, group_size=group)
    split = split_batch(batch, world)
    assert (split.micro, split.accumulation) == expected
    assert split == Split(*expected, world)
    assert split.micro * split.accumulation * world == global_size


@pytest.mark.parametrize("world", [3, 5, 16, 1000])
def test_an_impossible_split_names_what_is_possible(world):
    batch = BatchConfig(global_size=128, max_micro_size=64, group_size=16)
    with pytest.raises(ConfigError) as fault:
        split_batch(batch, world)
    [problem] = fault.value.problems
    assert f"over {world} processes" in problem
    assert "start 1 or 2 or 4 or 8 processes" in problem
    suggested = int(problem.split()[-1])
    split_batch(BatchConfig(global_size=suggested, max_micro_size=64, group_size=16), world)


@pytest.mark.parametrize(
    ("global_size", "most", "group", "world", "processes", "sizes"),
    [
        (128, 64, 16, 3, "1 or 2 or 4 or 8", "96 or 144"),
        (16, 16, 16, 3, "1", "48"),  # less than one group a process: no size of 0
        (1260, 8, 1, 11, "7 or 9 or 10 or 12 or 14 or 15", "1254 or 1265"),  # the six that are nearest
    ],
)
def test_an_impossible_split_names_the_nearest_that_is_possible(global_size, most, group, world, processes, sizes):
    with pytest.raises(ConfigError) as fault:
        split_batch(BatchConfig(global_size=global_size, max_micro_size=most, group_size=group), world)
    [problem] = fault.value.problems
    assert problem.endswith(f"start {processes} processes, or set batch.global_size to {sizes}")


def test_a_group_of_one_may_be_a_micro_batch():
    split = split_batch(BatchConfig(global_size=14, max_micro_size=1, group_size=1), 2)
    assert split == Split(1, 7, 2)
    assert isinstance(split.accumulation, int)
