"""What ranks send one another arrives whole and in order, on ranks that are threads."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sclds.losses.communicator import SingleProcess, gather_records, gather_rows, on_device, start_gather_rows
from sclds.losses.global_features import StepSizes
from tests.losses.threads import run_ranks


@pytest.mark.parametrize("rows", [[0, 1, 2], [2, 2, 2], [0, 0, 0], [7, 0, 3]])
def test_gathered_rows_are_those_of_every_rank_in_order(rows):
    def work(communicator):
        n = rows[communicator.rank]
        own = [torch.full((n, 2), communicator.rank), torch.full((3,), -n), torch.ones(n, 0, dtype=torch.int64)]
        lengths = communicator.gather_counts([len(tensor) for tensor in own])
        assert lengths.tolist() == [[count, 3, count] for count in rows]
        return gather_rows(own, list(lengths.T), communicator)

    for full, constant, empty in run_ranks(3, work):
        assert torch.equal(full, torch.cat([torch.full((n, 2), rank) for rank, n in enumerate(rows)]))
        assert torch.equal(constant, torch.cat([torch.full((3,), -n) for n in rows]))
        assert empty.shape == (sum(rows), 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_identities_arrive_bit_by_bit_with_the_features_of_any_type(dtype):
    """Every pattern is an identity, those of NaN and of both zeros too."""
    patterns = torch.tensor([0, -(2**63), -1, 2**63 - 1, 0x7FF0000000000001, 0x7FC17F817FC17F81, 0x7C017C017C017C01])
    ids = torch.stack((patterns, patterns.flip(0)), dim=1)

    def work(communicator):
        own = [torch.ones(2, 3, dtype=dtype), ids[communicator.rank :].view(dtype)]
        return gather_rows(own, list(communicator.gather_counts([len(x) for x in own]).T), communicator)

    for _, sent in run_ranks(2, work):
        assert torch.equal(sent.view(torch.int64), torch.cat((ids, ids[1:])))


def test_records_arrive_whole():
    records = [{"rank": 0, "of": "caf\u00e9"}, [], "x" * 70]
    assert run_ranks(3, lambda c: gather_records(records[c.rank], c, torch.device("cpu"))) == [records] * 3


def test_only_a_cuda_device_gets_its_copy_from_pinned_memory(monkeypatch):
    """Tried on the calls, which need no device."""
    calls = []

    class Recorded:
        def pin_memory(self):
            calls.append("pinned")
            return self

        def to(self, device, non_blocking=False):
            calls.append((str(device), non_blocking))
            return self

    monkeypatch.setattr(torch, "from_numpy", lambda array: Recorded())
    on_device(np.arange(3), torch.device("cuda:1"))
    on_device(np.arange(3), torch.device("cpu"))
    assert calls == ["pinned", ("cuda:1", True), ("cpu", False)]


def test_records_are_exchanged_on_the_device_that_is_named():
    messages = []

    class Meta(SingleProcess):
        def start_all_gather(self, tensor):
            messages.append(tensor.device.type)
            raise InterruptedError

    with pytest.raises(InterruptedError):
        gather_records({}, Meta(), torch.device("meta"))
    assert messages == ["meta"]


def test_a_single_process_counts_in_whole_numbers():
    assert SingleProcess().gather_counts([2**40]).dtype == np.int64
    assert SingleProcess().gather_counts([]).dtype == np.int64


def test_lengths_that_stand_for_several_tensors_are_looked_at_once():
    class Counted(np.ndarray):
        looks = 0

        def max(self, *arguments, **options):
            Counted.looks += 1
            return super().max(*arguments, **options)

    lengths = np.array([2]).view(Counted)
    gather_rows([torch.ones(2, 3), torch.ones(2), torch.ones(2, 1)], [lengths] * 3, SingleProcess())
    assert Counted.looks == 1


def test_nothing_is_sent_where_no_rank_has_a_row():
    class Silent(SingleProcess):
        def start_all_gather(self, tensor):
            raise AssertionError("a message of nothing was sent")

    own = [torch.ones(0, 2), torch.ones(0, 3, 4)]
    found = start_gather_rows(own, list(np.zeros((2, 3), np.int64)), Silent())()
    assert [tensor.shape for tensor in found] == [(0, 2), (0, 3, 4)]
    wide = [torch.ones(2, 0), torch.ones(1, 0)]  # rows without columns are rows all the same
    found = start_gather_rows(wide, [np.array([2, 2]), np.array([1, 1])], Silent())()
    assert [tensor.shape for tensor in found] == [(4, 0), (2, 0)]


def test_every_count_has_its_column():
    """Two ranks, two accumulation steps; frames behind the four counts."""
    table = np.arange(2 * 2 * 7).reshape(2, 2, 7)
    sizes = StepSizes(table)
    for column, count in enumerate(("samples", "words", "completed", "replaced")):
        term = SimpleNamespace(frame=None, objective=SimpleNamespace(count=count))
        assert [sizes.rows(term, step).tolist() for step in range(2)] == table[:, :, column].T.tolist()
        assert sizes.rows(term, 1) is sizes.rows(term, 1), "one array, which the gather looks at once"
    framed = SimpleNamespace(frame=2, objective=SimpleNamespace(count="samples"))
    assert sizes.rows(framed, 0).tolist() == table[:, 0, 6].tolist()


def test_counts_of_a_step_are_sums_over_ranks_and_accumulation_steps():
    table = np.zeros((2, 2, 7), np.int64)
    table[:, :, :4] = 1, 2, 3, 4
    table[1, 0, 4:] = 5, 1, 0
    counts = StepSizes(table).counts
    assert (counts.samples, counts.words, counts.completed, counts.replaced) == (4, 8, 12, 16)
    assert counts.frames == 2, "a frame that no sample has is none"
