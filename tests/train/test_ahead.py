"""What ranks tell one another of a step: asked while the step before runs, and the same for all."""

from contextlib import nullcontext
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest

from sclds.batch.types import Counts
from sclds.config.errors import SharedError, UserError
from sclds.losses.global_features import GlobalCounts
from sclds.train import loop
from sclds.train.ahead import Ahead, NextStep
from sclds.train.loop import Run
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
        rank = Rank(communicator, batches=2)
        return [rank.ahead.take().sizes for _ in range(2)]

    for of_rank in run_ranks(3, run):
        for step, sizes in enumerate(of_rank):
            samples = [10 * step + rank for rank in range(3)]
            alike = [[n] * 3 for n in (1, 2, 7)]  # words, completed tokens, replaced patches of both groups
            with_frame = [[[n] * 3 for n in (5, part, 0)] for part in range(2)]
            np.testing.assert_array_equal(sizes.of_all, [[samples, *alike, *of_part] for of_part in with_frame])
            assert sizes.counts == GlobalCounts(2 * sum(samples), 6, 12, 42, frames=2)


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


def test_a_fault_is_told_also_where_another_rank_was_asked_to_stop():
    """A scheduler that takes a host away stops the others: the run has failed, and its outcome has to say so."""

    def run(communicator):
        rank = Rank(communicator, batches=10, fault_at=1 if communicator.rank == 1 else None)
        assert rank.ahead.take() is not None
        rank.stopping = communicator.rank == 0
        rank.ahead.fetch()
        with pytest.raises(UserError) as found:
            rank.ahead.take()
        return type(found.value)

    assert run_ranks(3, run) == [SharedError, UserError, SharedError]


def test_what_keeps_a_rank_from_going_on_counts_beside_its_data():
    rank = Rank(OneProcess(), batches=3)
    assert rank.ahead.take() is not None
    rank.lost = UserError("another job has this run folder")
    rank.ahead.fetch()
    with pytest.raises(UserError, match="another job"):
        rank.ahead.take()


def test_a_run_fetches_a_step_while_the_one_before_computes_and_none_behind_the_last(monkeypatch):
    """Asked after the step was queued and before anything looks at it, and the step takes what was agreed on."""
    log, run = [], mock.MagicMock(spec=Run)
    run.step, run.config = 0, SimpleNamespace(schedule=SimpleNamespace(steps=3))
    run.guards, run.saver, run.self_check = mock.MagicMock(), mock.MagicMock(), mock.MagicMock()
    run.journal, run.guard, run.split, run.group = mock.MagicMock(), mock.MagicMock(), None, None
    run.guards.limit = lambda *given: nullcontext()
    run._next_step = lambda ahead: ahead.take()

    class Fetching:
        def take(self):
            log.append(f"take {run.step}")
            return NextStep([run.step], f"sizes {run.step}")

        def fetch(self):
            log.append(f"fetch {run.step}")

    def step(engine, batches, number, config, split, group, sizes):
        log.append(f"step {number} of {batches} with {sizes}")
        return SimpleNamespace(applied=True)

    monkeypatch.setattr(loop, "train_step", step)
    measures = mock.MagicMock()
    measures.add.side_effect = lambda batches: log.append("measured")
    while run.step < 3:
        batches, _ = Run._step(run, Fetching(), measures, None)
        assert batches == [run.step - 1]
    expected = [
        [f"take {n}", f"step {n} of [{n}] with sizes {n}", *([f"fetch {n + 1}"] if n < 2 else []), "measured"]
        for n in range(3)
    ]
    assert log == [each for of_step in expected for each in of_step]
