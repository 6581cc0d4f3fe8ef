import pytest
import torch

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
