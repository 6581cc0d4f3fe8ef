"""Retrieval as it is published: all captions of a sample, the matching head over the first candidates, any split."""

import json

import numpy as np
import pytest
import torch

from sclds.config.reading import parse_config
from sclds.data.tokenizer import load_tokenizer
from sclds.evaluation import ranking
from sclds.evaluation.gallery import GalleryPass
from sclds.evaluation.ranking import chance_of_hit, contrastive_ranks, ranks_among, reranked
from sclds.evaluation.retrieval import rank_metrics
from sclds.evaluation.tasks import evaluate, figure_names, figures, sections
from sclds.losses.communicator import SingleProcess
from sclds.model.scl import SCLModel
from tests.data.synthetic import clip, picture, write_tar
from tests.losses.threads import run_ranks
from tests.train.synthetic import tiny_config

CAPTIONS = [1, 5, 2, 3, 1, 4, 2]
"""Of each of seven images."""


def published_recall(scores, owner, k):
    """The published definition: the first k of a sorted list hold a text of this image, or the image of this text."""
    images = torch.arange(scores.shape[1])
    of_texts = [int(owner[t]) in scores[t].topk(k).indices.tolist() for t in range(len(scores))]
    of_images = [bool((owner[scores[:, v].topk(k).indices] == v).any()) for v in images.tolist()]
    return sum(of_texts) / len(of_texts), sum(of_images) / len(of_images)


@pytest.mark.parametrize("chunk", [1, 37, 2**22])
def test_recalls_are_the_published_ones(monkeypatch, chunk):
    monkeypatch.setattr(ranking, "CHUNK", chunk)
    owner = torch.tensor([v for v, n in enumerate(CAPTIONS) for _ in range(n)])
    generator = torch.Generator().manual_seed(1)
    vision = torch.randn(7, 4, generator=generator)
    text = vision[owner] + 1.2 * torch.randn(len(owner), 4, generator=generator)
    found = rank_metrics(text, vision, owner)
    normal = torch.nn.functional.normalize
    scores = normal(text.double(), dim=1) @ normal(vision.double(), dim=1).T
    for k in (1, 5):
        assert (found["text_to_vision"][f"r{k}"], found["vision_to_text"][f"r{k}"]) == published_recall(
            scores, owner, k
        )
    assert (found["text_to_vision"]["n"], found["text_to_vision"]["candidates"]) == (18, 7)
    assert (found["vision_to_text"]["n"], found["vision_to_text"]["candidates"]) == (7, 18)


def test_ranks_by_hand():
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.1], [0.5, 0.5, 0.4, 0.6], [float("nan"), 0.1, 0.2, 0.3]])
    own = torch.tensor([[False, True, True, False], [False, True, False, True], [True, False, False, False]])
    assert ranks_among(scores, own).tolist() == [2, 1, 5], "captions of one image do not stand in one another's way"
    tied = torch.tensor([[0.5, 0.5, 0.4]])
    assert ranks_among(tied, torch.tensor([[True, False, False]])).tolist() == [2], "a tie counts against us"


def test_reranking_by_hand():
    """The first two of four are sorted anew; a right one behind them stays where it was, or moves behind them."""
    own = torch.tensor([[False, True], [False, False], [False, True]])
    scores = torch.tensor([[1.0, 2.0], [5.0, 1.0], [1.0, float("nan")]])
    assert reranked(torch.tensor([2, 4, 2]), scores, own).tolist() == [1, 4, 3]


def test_chance_by_hand():
    assert chance_of_hit(10, 1, 3) == pytest.approx(0.3)
    assert chance_of_hit(10, 5, 1) == pytest.approx(0.5)
    assert chance_of_hit(4, 2, 2) == pytest.approx(1 - 1 / 6)
    assert chance_of_hit(3, 1, 10) == 1


@pytest.fixture
def world(tmp_path):
    """Return settings, model and tokenizer over seven images with several captions, and five videos."""
    images = {}
    for number, count in enumerate(CAPTIONS):
        images[f"{number}.png"] = picture(number)
        said = [f"thing {number} seen {k} times {'from afar ' * k}" for k in range(count)]
        images[f"{number}.json"] = json.dumps({"captions": said}).encode()
    write_tar(tmp_path / "images" / "0.tar", images)
    videos = {}
    for number in range(3):
        videos[f"{number}.webm"] = clip(number + 2)
        videos[f"{number}.json"] = json.dumps({"captions": [f"grey {number}", "a video"]}).encode()
    write_tar(tmp_path / "videos" / "0.tar", videos)
    tree = tiny_config().model_dump(mode="json")
    tree["data"]["heldout"] = [
        {"name": "a", "shards": str(tmp_path / "images")},
        {"name": "b", "shards": str(tmp_path / "videos"), "kind": "video"},
    ]
    tree["evaluation"] = {"tasks": ["retrieval"], "batch_size": 2, "captions": "all", "rerank": 3}
    tree["model"]["text"]["vocab_size"] = 0
    tree["model"]["text"]["max_positions"] = 60
    config = parse_config(tree)
    tokenizer = load_tokenizer("embedded")
    model = SCLModel(config.model, tokenizer.vocab_size)
    model.initialize(3)
    torch.manual_seed(0)
    with torch.no_grad():  # far from initial values, so that no two scores are nearly equal
        for parameter in model.parameters():
            parameter += 0.5 * torch.randn_like(parameter) * parameter.std(correction=0).clamp(min=0.05)
    return config, model.eval(), tokenizer


def settings(config, **changes):
    return config.model_copy(update={"evaluation": config.evaluation.model_copy(update=changes)})


def measured(world, communicator=None, **changes):
    config, model, tokenizer = world
    return evaluate(model, settings(config, **changes), tokenizer, torch.device("cpu"), communicator or SingleProcess())


def test_any_number_of_ranks_gives_the_same(world):
    alone = measured(world)
    for found in run_ranks(3, lambda communicator: measured(world, communicator)):
        assert found == alone
    row = alone["sets"]["a"]
    assert row["retrieval"]["text_to_vision"]["n"] == 18
    assert row["protocol"] == {"captions": "all", "rerank": 3, "frames": 2, "weights": "zero-shot"}
    assert set(figures(alone)) - {"heldout/a/candidates", "heldout/b/candidates"} == set(
        figure_names(settings(world[0]))
    )
    [section] = sections(alone)
    assert "every caption of a sample counts" in section.note
    assert any("matching head over the first 3" in name for name, _ in section.rows)


def test_matching_all_candidates_is_exact(world):
    """With k = all, ranks are those of the whole matrix of matching scores, one pair scored at a time."""
    config, model, tokenizer = world
    whole = settings(config, rerank=100)
    found = GalleryPass(model, whole, tokenizer, torch.device("cpu"), SingleProcess()).run()["a"]
    listed, owner = found.shortlist, torch.tensor(found.owners)
    scores = torch.zeros(18, 7).scatter(1, listed.images, listed.image_scores)
    other = torch.zeros(7, 18).scatter(1, listed.texts, listed.text_scores)
    assert torch.allclose(scores, other.T, atol=1e-5)
    row = evaluate(model, whole, tokenizer, torch.device("cpu"), SingleProcess())["sets"]["a"]["matching"]
    for k in (1, 5):
        assert (row["text_to_vision"][f"r{k}"], row["vision_to_text"][f"r{k}"]) == published_recall(scores, owner, k)


def test_a_score_is_that_of_the_pair_in_a_batch_of_pretraining(world):
    """The matching head says the same of a text with its own image as in the step that trained it."""
    from sclds.data.loader import heldout_batches

    config, model, tokenizer = world
    found = GalleryPass(model, settings(config, rerank=100), tokenizer, torch.device("cpu"), SingleProcess()).run()
    for dataset in config.data.heldout:
        gallery = found[dataset.name]
        scores = torch.zeros(len(gallery.owners), len(gallery.sample_ids))
        scores.scatter_(1, gallery.shortlist.images, gallery.shortlist.image_scores)
        first = [gallery.owners.index(number) for number in range(len(gallery.sample_ids))]
        for number, batch in enumerate(heldout_batches(config, tokenizer, dataset, 2)):
            logits = model(batch)["itm_logits"].detach()
            partners = np.array([2 * number + i for i in range(len(logits))])
            for row in range(len(logits)):
                if int(batch.labels.itm[row]):
                    own = partners[row]
                    expected = float(logits[row, 1] - logits[row, 0])
                    assert float(scores[first[own], own]) == pytest.approx(expected, abs=1e-4)


def test_frames_are_a_setting_of_evaluation(world):
    """Videos of two frames in training are measured on five."""
    assert measured(world, frames=5)["sets"]["b"]["protocol"]["frames"] == 5
    assert measured(world, frames=5)["sets"]["b"] != measured(world)["sets"]["b"]


def test_contrastive_ranks_of_one_caption_each_are_those_of_pairs():
    rows = torch.eye(5)
    of_texts, of_images = contrastive_ranks(rows, rows.flip(0), torch.arange(5).flip(0))
    assert of_texts.tolist() == of_images.tolist() == [1] * 5
