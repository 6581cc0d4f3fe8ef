"""A tie counts against a model, and so does what is not a number, in every accuracy and every retrieval metric."""

import pytest
import torch

from scl_kernels import InfoNCEProblem, infonce_statistics
from sclds.evaluation.retrieval import cosine, rank_metrics
from sclds.losses.communicator import SingleProcess
from sclds.losses.ranks import hits, ranks
from tests.losses.test_objectives import ALL, piece, step

NAN = float("nan")


@pytest.mark.parametrize(
    ("scores", "rank"),
    [
        ([3.0, 1.0, 2.0], 1),
        ([1.0, 3.0, 2.0], 3),
        ([2.0, 2.0, 1.0], 2),
        ([2.0, 2.0, 2.0], 3),
        ([0.0, 0.0, 0.0], 3),
        ([NAN, 1.0, 2.0], 3),
        ([3.0, NAN, 2.0], 2),
        ([NAN, NAN, NAN], 3),
        ([float("inf"), 1.0, 2.0], 1),
        ([3.0], 1),
        ([float("inf"), float("inf"), 2.0], 2),
    ],
)
def test_the_first_candidate_ranks_as_it_should(scores, rank):
    row = torch.tensor([scores])
    assert ranks(row, torch.tensor([0])).tolist() == [rank]
    assert hits(row, torch.tensor([0])).tolist() == [rank == 1]


def test_what_is_not_a_number_is_no_hit_among_however_few():
    alone = torch.tensor([[NAN]])
    assert not hits(alone, torch.tensor([0])).any()
    found = rank_metrics(torch.full((3, 4), NAN), torch.full((3, 4), NAN))["text_to_vision"]
    assert (found["r1"], found["r5"], found["r10"]) == (0, 0, 0)


@pytest.mark.parametrize("value", [1.0, 0.0, NAN])
def test_a_collapsed_model_has_no_accuracy(value):
    """Whatever is compared, of whatever objective: constant outputs, of numbers or not, hit nothing."""
    outputs, batch = piece(3, (2, 2, 2), 2)
    collapsed = {name: torch.full_like(tensor, value).requires_grad_() for name, tensor in outputs.items()}
    terms, _, _ = step([(collapsed, batch)], ALL, SingleProcess())
    accuracies = {name: float(term) for name, term in terms.items() if name.endswith("_accuracy")}
    assert {name.removesuffix("_accuracy") for name in accuracies} >= {"contrastive", "mlm", "itm", "mvsc", "mlsc"}
    assert accuracies == dict.fromkeys(accuracies, 0.0)


@pytest.mark.parametrize("value", [1.0, 0.0, NAN])
def test_a_collapsed_model_finds_nothing(value):
    rows = torch.full((20, 4), value)
    for direction in rank_metrics(rows, rows).values():
        assert (direction["r1"], direction["r5"], direction["r10"]) == (0, 0, 0)
        # behind all of them where there is no score, so that it is among no first ones however few there are
        assert direction["median_rank"] == (21 if value != value else 20)


def test_training_and_retrieval_count_alike():
    """A contrastive accuracy is R@1 of the same features, ties and numbers that are none included."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(-1, 2, (40, 3), generator=generator).double()
    b = torch.where(torch.rand(40, 1, generator=generator) < 0.5, a, a.flip(0))
    a[5] = NAN
    problem = InfoNCEProblem(a, b, a, b, torch.tensor(1.0).double(), 0, torch.ones(40).double())
    (found,) = infonce_statistics([problem], backend="torch")
    own, similarity = torch.arange(40), cosine(a, b)
    metrics = rank_metrics(a, b)
    for correct, scores, r1 in (
        (found.row_correct, similarity, metrics["text_to_vision"]["r1"]),
        (found.col_correct, similarity.T, metrics["vision_to_text"]["r1"]),
    ):
        assert float(correct.double().mean()) == float(hits(scores, own).double().mean()) == r1
