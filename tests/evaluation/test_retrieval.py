import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sclds.config import Config, DataConfig, DatasetConfig, EvaluationConfig
from sclds.config.errors import DataError, UserError
from sclds.data.quarantine import Quarantine
from sclds.evaluation import retrieval


def test_perfect_match_has_recall_one() -> None:
    rows = torch.eye(12)
    for direction in retrieval.rank_metrics(rows, rows).values():
        assert direction["r1"] == direction["r5"] == direction["r10"] == 1.0
        assert direction["median_rank"] == 1.0
        assert direction["n"] == 12
        assert direction["chance_r10"] == pytest.approx(10 / 12)


def test_collapsed_features_count_as_worst() -> None:
    """A constant model ties everywhere: pessimistic ranks leave it without a hit."""
    rows = torch.ones(20, 4)
    result = retrieval.rank_metrics(rows, rows)["text_to_vision"]
    assert result["r10"] == 0.0
    assert result["median_rank"] == 20


def test_not_a_number_counts_as_worst() -> None:
    rows = torch.eye(20)
    rows[3] = float("nan")
    result = retrieval.rank_metrics(rows, torch.eye(20))["text_to_vision"]
    assert result["r1"] == pytest.approx(19 / 20)


def test_directions_differ() -> None:
    """Text 1 is nearest to picture 0, so text-to-vision misses one; both pictures still find their own text."""
    text = torch.tensor([[1.0, 0.0], [1.0, 0.5]])
    vision = torch.tensor([[1.0, 0.2], [0.0, 1.0]])
    result = retrieval.rank_metrics(text, vision)
    assert result["text_to_vision"]["r1"] == 0.5
    assert result["vision_to_text"]["r1"] == 1.0


def test_chance_is_at_most_one_and_nothing_is_refused() -> None:
    assert retrieval.rank_metrics(torch.eye(3), torch.eye(3))["text_to_vision"]["chance_r10"] == 1.0
    with pytest.raises(ValueError, match="no pair"):
        retrieval.rank_metrics(torch.zeros(0, 3), torch.zeros(0, 3))


@pytest.mark.parametrize(("n", "wanted"), [(0, 8), (1, 8), (7, 8), (8, 8), (1000, 8), (5, 0)])
def test_evenly_spaced_indices_are_different_and_in_range(n: int, wanted: int) -> None:
    chosen = list(retrieval.evenly_spaced(n, wanted))
    assert len(chosen) == len(set(chosen)) == min(n, wanted)
    assert all(0 <= i < n for i in chosen)


class Rank:
    """One of W ranks whose peers' contributions are recorded beforehand."""

    def __init__(self, rank: int, world_size: int, exchange: list[list[Tensor]]) -> None:
        self.rank, self.world_size, self.exchange, self.call = rank, world_size, exchange, 0

    def all_gather(self, tensor: Tensor) -> Tensor:
        while len(self.exchange) <= self.call:
            self.exchange.append([])
        place = self.exchange[self.call]
        self.call += 1
        if len(place) < self.world_size:
            place.append(tensor)
        return torch.stack([place[min(r, len(place) - 1)] for r in range(self.world_size)])

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        raise AssertionError("evaluation sums nothing over ranks")


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        assert not self.training
        self.calls += 1
        rows = torch.nn.functional.one_hot(batch["number"], 64).float()
        return {"text_proj": rows, "vision_proj": rows}


def batches(
    config: Config, tokenizer: Any, dataset: DatasetConfig, size: int, quarantine: Quarantine
) -> Iterator[dict[str, Any]]:
    total = 10 if dataset.kind == "image" else 3
    for start in range(0, total, size):
        numbers = torch.arange(start, min(start + size, total))
        names = tuple(f"{dataset.name}/{i}" for i in numbers.tolist())
        yield {"number": numbers, "sample_ids": names, "captions": names}


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setattr(retrieval, "heldout_batches", batches)
    monkeypatch.setattr(retrieval, "features_of", lambda outputs: outputs)
    monkeypatch.setattr(retrieval, "GlobalBatch", types.SimpleNamespace(gather=lambda *a: None))
    monkeypatch.setattr(retrieval, "step_loss", lambda out, batch, *a: (None, {"itm": batch["number"].float().mean()}))
    row = DatasetConfig(name="a", shards="x")
    heldout = [row, DatasetConfig(name="b", shards="x", kind="video")]
    return Config(
        name="t",
        data=DataConfig(train=[row], heldout=heldout),
        evaluation=EvaluationConfig(batch_size=4, max_samples=9),
    )


def evaluate(config: Config, rank: Rank) -> tuple[dict[str, Any], Model]:
    model = Model().train()
    tokenizer: Any = None
    return retrieval.evaluate(model, config, tokenizer, torch.device("cpu"), rank), model


def test_evaluation_in_one_process(config: Config) -> None:
    result, model = evaluate(config, Rank(0, 1, []))
    assert model.training
    assert result["retrieval"]["image"]["text_to_vision"]["n"] == 9
    assert result["retrieval"]["video"]["text_to_vision"]["r1"] == 1.0
    # full batches (0..3), (4..7) of pictures; the only batch of clips; weighted by 9 and 3 samples
    assert result["losses"]["itm"] == pytest.approx((9 * (1.5 + 5.5) / 2 + 3 * 1.0) / 12)
    assert len(result["examples"]) == 4 + 3
    assert result["examples"][0]["retrieved"][0] == result["examples"][0]["sample_id"]


def test_every_rank_runs_equally_often(config: Config) -> None:
    """With two ranks the three picture batches take two turns on both, the one of clips one."""
    exchange: list[list[Tensor]] = []
    calls = [evaluate(config, Rank(rank, 2, exchange))[1].calls for rank in (0, 1)]
    assert calls == [3, 3]
    # a third pass, by a rank that only listens, sees what both ranks contributed
    listener, _ = evaluate(config, Rank(0, 2, exchange))
    alone, _ = evaluate(config, Rank(0, 1, []))
    assert listener == alone


def test_nothing_held_out(config: Config) -> None:
    bare = config.model_copy(update={"data": config.data.model_copy(update={"heldout": []})})
    result, _ = evaluate(bare, Rank(0, 1, []))
    assert result == {"retrieval": {}, "losses": {}, "examples": []}


def test_ranks_that_read_other_samples_stop_together(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample that is gone for one rank alone must neither shift features nor leave the others waiting."""
    exchange: list[list[Tensor]] = []
    evaluate(config, Rank(0, 2, exchange))

    def fewer(*arguments: Any) -> Iterator[dict[str, Any]]:
        whole, *rest = batches(*arguments)
        yield {name: values[1:] for name, values in whole.items()}
        yield from rest

    monkeypatch.setattr(retrieval, "heldout_batches", fewer)
    with pytest.raises(UserError, match=r"held-out samples that process 0 reads cannot be read by process 1, or"):
        evaluate(config, Rank(1, 2, exchange))


def test_a_rank_that_cannot_read_on_stops_the_others(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*arguments: Any) -> Iterator[dict[str, Any]]:
        yield from list(batches(*arguments))[:1]
        raise DataError("too many samples are unusable")

    exchange: list[list[Tensor]] = []
    evaluate(config, Rank(0, 2, exchange))
    faulty: list[list[Tensor]] = []
    with monkeypatch.context() as patch:
        patch.setattr(retrieval, "heldout_batches", failing)
        with pytest.raises(DataError, match="too many samples"):
            evaluate(config, Rank(0, 2, faulty))
    with pytest.raises(UserError, match="Nothing can be measured"):
        evaluate(config, Rank(1, 2, faulty))


def test_names_that_are_no_text_can_be_compared() -> None:
    """Names come out of archives, as whatever bytes stand there."""
    assert len({retrieval._digest(["\udcff"]), retrieval._digest(["\udcfe"]), retrieval._digest([])}) == 3
