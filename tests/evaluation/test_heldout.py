"""The held-out pass: shared by the ranks, each decoding its own batches, equal for any number of them."""

import threading
import types
from typing import ClassVar

import pytest
import torch
from torch import nn

from sclds.config import Config, DataConfig, DatasetConfig, EvaluationConfig
from sclds.config.errors import DataError, UserError
from sclds.data.loader import HeldoutChunk
from sclds.evaluation import heldout
from sclds.evaluation.tasks import evaluate, figure_names, figures, higher_is_better, sections
from sclds.losses.communicator import SingleProcess
from tests.losses.threads import run_ranks

SIZES = {"a": 10, "b": 3}


class FakeBatch(types.SimpleNamespace):
    def to(self, device, dtype):
        return self


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, batch):
        assert not self.training
        self.calls += 1
        rows = torch.nn.functional.one_hot(batch.number, 64).float()
        return {"text_proj": rows, "vision_proj": rows}


class Reader:
    """Stands in for `HeldoutReader`: numbered samples, some of which cannot be used."""

    unusable = frozenset()
    decoded: ClassVar = {}
    """By thread, the first samples of the batches that it decoded."""

    def __init__(self, *arguments):
        Reader.decoded[threading.get_ident()] = []

    def __call__(self, chunk):
        Reader.decoded[threading.get_ident()].append((chunk.dataset.name, chunk.start))
        numbers = [i for i in range(chunk.start, chunk.end) if (chunk.dataset.name, i) not in self.unusable]
        names = tuple(f"{chunk.dataset.name}/{i}" for i in numbers)
        samples = types.SimpleNamespace(ids=names, captions=names)
        return FakeBatch(number=torch.tensor(numbers), samples=samples) if numbers else None

    def close(self):
        pass


def chunks(config, datasets, size):
    (dataset,) = datasets
    total = min(SIZES[dataset.name], config.evaluation.max_samples)
    return [HeldoutChunk(dataset, start, min(start + size, total)) for start in range(0, total, size)]


@pytest.fixture
def config(monkeypatch):
    monkeypatch.setattr(heldout, "HeldoutReader", Reader)
    monkeypatch.setattr(heldout, "heldout_chunks", chunks)
    monkeypatch.setattr(heldout, "features_of", lambda outputs, batch: outputs)
    monkeypatch.setattr(heldout, "GlobalFeatures", types.SimpleNamespace(gather=lambda *a: None))
    monkeypatch.setattr(heldout, "levels_of", lambda batch, config: {"itm": 0.5})
    monkeypatch.setattr(heldout, "step_loss", lambda out, batch, *a: (None, {"itm": batch.number.float().mean()}))
    monkeypatch.setattr(Reader, "unusable", frozenset())
    monkeypatch.setattr(Reader, "decoded", {})
    row = DatasetConfig(name="a", shards="x")
    sets = [row, DatasetConfig(name="b", shards="x", kind="video")]
    return Config(
        name="t",
        data=DataConfig(train=[row], heldout=sets),
        evaluation=EvaluationConfig(batch_size=4, max_samples=9),
    )


def run(config, communicator=None):
    """Return results, forwards and decoded batches of one rank."""
    model = Model().train()
    found = evaluate(model, config, None, torch.device("cpu"), communicator or SingleProcess())
    assert model.training
    return found, model.calls, Reader.decoded[threading.get_ident()]


def test_evaluation_in_one_process(config):
    result, _, _ = run(config)
    assert result["retrieval"]["image"]["text_to_vision"]["n"] == 9
    assert result["retrieval"]["video"]["text_to_vision"]["r1"] == 1.0
    # full batches (0..3), (4..7) of images; the only batch of videos; weighted by 9 and 3 samples
    assert result["losses"]["itm"] == pytest.approx((9 * (1.5 + 5.5) / 2 + 3 * 1.0) / 12)
    assert len(result["examples"]) == 4 + 3
    assert result["examples"][0]["retrieved"][0] == result["examples"][0]["sample_id"]


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_ranks_decode_their_own_batches_and_agree_with_one_process(config, world_size):
    alone, _, _ = run(config)
    ranks = run_ranks(world_size, lambda communicator: run(config, communicator))
    assert all(result == alone for result, _, _ in ranks)
    assert len({calls for _, calls, _ in ranks}) == 1, "ZeRO-3 needs equally many forwards"
    for kind, batches in (("a", 3), ("b", 1)):
        decoded = [batch for _, _, seen in ranks for batch in seen if batch[0] == kind]
        windows = -(-batches // world_size)
        assert len(decoded) == windows * world_size, "one batch a rank and window"
        assert sum(1 for batch in set(decoded) if decoded.count(batch) > 1) <= 1, "only the last is read again"


@pytest.mark.parametrize("world_size", [1, 2])
def test_samples_that_cannot_be_used_are_left_out_alike(config, monkeypatch, world_size):
    """The first batch of images is empty, the video set too: another batch stands in, and is not counted."""
    monkeypatch.setattr(Reader, "unusable", frozenset([*(("a", i) for i in range(5)), *(("b", i) for i in range(3))]))
    for result, calls, _ in run_ranks(world_size, lambda communicator: run(config, communicator)):
        assert list(result["retrieval"]) == ["image"]
        assert result["retrieval"]["image"]["text_to_vision"]["n"] == 4
        assert result["losses"]["itm"] == 6.0  # the first counted batch, 5..7, though it is not full
        assert calls == -(-3 // world_size) + 1


def test_tasks_are_those_of_the_configuration(config):
    evaluation = config.evaluation.model_copy(update={"tasks": ["losses"]})
    result, _, _ = run(config.model_copy(update={"evaluation": evaluation}))
    assert set(result) == {"losses", "sets"}
    assert result["sets"]["b"] == {
        "kind": "video",
        "samples": 3,
        "losses": {"itm": 1.0},
        "levels": {"itm": 0.5},
        "loss_samples": 3,
    }
    assert result["sets"]["a"]["loss_samples"] == 4


def test_sets_of_a_kind_are_measured_one_by_one_and_together(config):
    """Each has its own samples, up to `max_samples` of it; the figures of the kind count over all of them."""
    rows = [DatasetConfig(name=name, shards="x") for name in ("a", "b")]
    data = config.data.model_copy(update={"heldout": rows})
    result, _, _ = run(config.model_copy(update={"data": data}))
    sets = result["sets"]
    assert [sets[name]["retrieval"]["text_to_vision"]["n"] for name in ("a", "b")] == [9, 3]
    assert sets["b"]["retrieval"]["text_to_vision"]["r1"] == 1.0
    assert sets["b"]["retrieval"]["text_to_vision"]["chance_r10"] == 1.0
    assert result["retrieval"]["image"]["text_to_vision"]["n"] == 12
    [table] = sections({"sets": sets, "retrieval": result["retrieval"]})
    assert [name for name, _ in table.rows][::2] == [
        "a: caption → image",
        "b: caption → image",
        "all sets: caption → image",
    ]
    assert [cells[-1].text for _, cells in table.rows][::2] == ["9", "3", "12"]


def test_a_share_of_the_batches_is_always_the_same_full_ones(config):
    def measured(share):
        model = Model()
        return evaluate(model, config, None, torch.device("cpu"), SingleProcess(), share=share)["sets"]

    assert measured(0.5)["a"]["samples"] == 8  # two of three batches, not the short last one
    assert measured(0.1)["a"]["samples"] == 4
    assert measured(0.1) == measured(0.1)
    assert measured(0.1)["b"]["samples"] == 3  # a set without a full batch gives what it has


def test_figures_have_the_names_that_are_promised(config):
    found = figures(run(config)[0])
    assert found["heldout/a/itm"] == pytest.approx(3.5)
    assert found["heldout/b/vision_to_text_r10"] == 1.0
    assert found["heldout/a/candidates"] == 9
    promised = figure_names(config)
    assert {
        "heldout/a/itm",
        "heldout/b/total",
        "heldout/b/mlm_accuracy",
        "heldout/a/text_to_vision_median_rank",
    } <= set(promised)
    assert {name for name in found if not name.endswith("candidates")} <= set(promised)


@pytest.mark.parametrize(
    ("figure", "higher"),
    [("total", False), ("itm_accuracy", True), ("text_to_vision_r10", True), ("text_to_vision_median_rank", False)],
)
def test_which_way_is_better(figure, higher):
    assert higher_is_better(f"heldout/a/{figure}") is higher


def test_nothing_held_out(config):
    bare = config.model_copy(update={"data": config.data.model_copy(update={"heldout": []})})
    result, _, _ = run(bare)
    assert result == {"retrieval": {}, "losses": {}, "examples": [], "sets": {}}


def fault_of(config, communicator):
    try:
        return run(config, communicator)[0]
    except UserError as fault:
        return fault


def test_ranks_that_find_other_sets_stop_together(config, monkeypatch):
    """A shard that is gone for one rank alone must neither shift features nor leave the others waiting."""

    def fewer(config, datasets, size):
        found = chunks(config, datasets, size)
        return found[1:] if threading.current_thread().name.startswith("rank-1") else found

    monkeypatch.setattr(heldout, "heldout_chunks", fewer)
    for fault in run_ranks(2, lambda communicator: fault_of(config, communicator)):
        assert "held-out samples that process 0 reads cannot be read by process 1, or" in str(fault)


def test_a_rank_that_cannot_read_on_stops_the_others(config, monkeypatch):
    def failing(self, chunk):
        if threading.current_thread().name.startswith("rank-1"):
            raise DataError("too many samples are unusable")
        return whole(self, chunk)

    whole = Reader.__call__
    monkeypatch.setattr(Reader, "__call__", failing)
    first, second = run_ranks(2, lambda communicator: fault_of(config, communicator))
    assert "Nothing can be measured" in str(first)
    assert isinstance(second, DataError)
