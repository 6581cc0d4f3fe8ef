"""What ranks tell one another of a step: asked while the step before runs, and the same for all."""

from types import SimpleNamespace

import numpy as np
import pytest

from sclds.batch.types import Counts
from sclds.config.errors import SharedError, UserError
from sclds.losses.objectives import StepSizes
from sclds.train.ahead import Ahead
from tests.losses.threads import run_ranks
from tests.train.one_process import OneProcess

FRAMES = 3
"""`model.vision.max_frames`."""


def micro_batches(rank, step):
    """Return two, of sizes that tell rank and step."""
    counts = [Counts(10 * step + rank, 1, 2, (3, 4), (5, part, 0)) for part in range(2)]
    return [SimpleNamespace(counts=count) for count in counts]


class Rank:
    """One rank's side; `log` is what it did in order."""

    def __init__(self, communicator, batches, fault_at=None):
        self.log, self.stopping, self.lost = [], False, None
        self.communicator, self.rank = communicator, communicator.rank
        self.ahead = Ahead(self.read(batches, fault_at), 2, FRAMES, self, lambda: self.stopping, lambda: self.lost)

    def read(self, batches, fault_at):
        for step in range(batches):
            self.log.append(f"read {step}")
            if step == fault_at:
                raise UserError(f"rank {self.rank} has no data")
            yield micro_batches(self.rank, step)

    def start_gather_counts(self, counts):
        self.log.append("asked")
        told = self.communicator.gather_counts([int(count) for count in counts])

        def wait():
            self.log.append("waited")
            return told

        return wait


def test_a_step_begins_with_what_was_asked_before():
    rank = Rank(OneProcess(), batches=3)
    assert rank.ahead.take() is not None  # the first has none before it
    rank.ahead.fetch()
    rank.log.append("step")
    assert rank.ahead.take().micro_batches[0].counts.samples == 10
    assert rank.log == ["read 0", "asked", "waited", "read 1", "asked", "step", "waited"]


def test_sizes_are_those_of_all_ranks():
    def run(communicator):
        rank, found = Rank(communicator, batches=2), []
        for step in range(2):
            sizes = rank.ahead.take().sizes
            found.append((sizes, StepSizes.gather(micro_batches(communicator.rank, step), communicator)))
        return found

    for pairs in run_ranks(3, run):
        for sizes, expected in pairs:
            assert sizes.counts == expected.counts
            np.testing.assert_array_equal(sizes.of_all, expected.of_all)


@pytest.mark.parametrize("asked", [0, 2])
def test_one_rank_that_is_asked_to_stop_stops_all_at_the_same_step(asked):
    def run(communicator):
        rank = Rank(communicator, batches=10)
        steps = 0
        while rank.ahead.take() is not None:
            steps += 1
            rank.stopping = communicator.rank == asked and steps == 3  # while the third runs
            rank.ahead.fetch()
        return steps

    assert run_ranks(3, run) == [3, 3, 3]


def test_one_rank_without_data_ends_all_after_the_step_before():
    def run(communicator):
        rank, steps = Rank(communicator, batches=10, fault_at=2 if communicator.rank == 1 else None), 0
        try:
            while rank.ahead.take() is not None:
                steps += 1
                rank.ahead.fetch()
        except UserError as fault:
            return steps, type(fault), str(fault)
        return None

    first, faulty, last = run_ranks(3, run)
    assert faulty == (2, UserError, "rank 1 has no data")
    assert first == last == (2, SharedError, "Another process cannot go on; its message says why")


def test_what_keeps_a_rank_from_going_on_counts_beside_its_data():
    rank = Rank(OneProcess(), batches=3)
    assert rank.ahead.take() is not None
    rank.lost = UserError("another job has this run folder")
    rank.ahead.fetch()
    with pytest.raises(UserError, match="another job"):
        rank.ahead.take()
