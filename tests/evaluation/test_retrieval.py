import json

import pytest
import torch

from sclds.config.reading import load_config
from sclds.evaluation import retrieval
from sclds.evaluation.heldout import Encoded
from sclds.evaluation.ranking import Shortlist


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


def test_recalls_count_the_first_k() -> None:
    found = retrieval._directed(torch.arange(1, 13), 12, [1])
    assert [found[f"r{k}"] for k in retrieval.RECALLS] == pytest.approx([1 / 12, 5 / 12, 10 / 12])
    assert [found[f"chance_r{k}"] for k in retrieval.RECALLS] == pytest.approx([1 / 12, 5 / 12, 10 / 12])
    assert (found["median_rank"], found["n"], found["candidates"], found["right"]) == (6.5, 12, 12, 1)


def encoded_of(kind: str, names: list[str], rows: torch.Tensor) -> Encoded:
    return Encoded(kind, [rows], [rows.clone()], names, [f"a caption of {name}" for name in names])


def test_sets_of_a_kind_are_ranked_together_and_examples_are_shared_between_kinds() -> None:
    eye = torch.eye(5)
    sets = {
        "first": encoded_of("image", ["a", "b"], eye[:2]),
        "clips": encoded_of("video", ["v"], eye[4:]),
        "second": encoded_of("image", ["c", "d"], eye[2:4]),
    }
    found = retrieval.evaluate_retrieval(sets)
    assert {kind: row["text_to_vision"]["n"] for kind, row in found["retrieval"].items()} == {"image": 4, "video": 1}
    assert (
        found["retrieval"]["image"]
        == retrieval.rank_set(encoded_of("image", ["a", "b", "c", "d"], eye[:4]))["retrieval"]
    )
    assert [(e["kind"], e["sample_id"], e["of"]) for e in found["examples"]] == [
        *(("image", name, 4) for name in "abcd"),
        ("video", "v", 1),
    ]
    for example in found["examples"]:
        assert example["caption"] == f"a caption of {example['sample_id']}"
        assert example["rank"] == 1
        assert example["retrieved"][0] == example["sample_id"]
        assert len(example["retrieved"]) == min(retrieval.RETRIEVED, example["of"])
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(("images", "videos", "shown"), [(30, 30, (4, 4)), (30, 0, (8, 0)), (30, 2, (4, 2))])
def test_examples_are_spread_over_queries_whatever_their_result(images: int, videos: int, shown: tuple) -> None:
    sets = {}
    for kind, n in (("image", images), ("video", videos)):
        if n:
            order = [(i + 1) % n for i in range(n)]  # every query finds its neighbor
            sets[kind] = encoded_of(kind, [f"{kind}{i}" for i in range(n)], torch.eye(n))
            sets[kind].vision[0] = torch.eye(n)[order]
    examples = retrieval.evaluate_retrieval(sets)["examples"]
    assert tuple(sum(e["kind"] == kind for e in examples) for kind in ("image", "video")) == shown
    for e in examples:
        number = int(e["sample_id"].removeprefix(e["kind"]))
        assert e["retrieved"][0] == f"{e['kind']}{(number - 1) % e['of']}"
        assert e["rank"] == e["of"], "all other candidates tie with the right one"


def row_of(n: int, r1: float) -> dict[str, float]:
    chances = {f"chance_r{k}": min(1.0, k / n) for k in retrieval.RECALLS}
    return {"n": n, "candidates": n, "right": 1, "r1": r1, "r5": 0.5, "r10": 0.75, "median_rank": 4.5} | chances


def test_sections_show_recalls_beside_chance() -> None:
    directions = {"text_to_vision": row_of(40, 0.25), "vision_to_text": row_of(40, 0.125)}
    results = {
        "sets": {"birds": {"kind": "image", "retrieval": directions}, "silent": {"kind": "image"}},
        "retrieval": {"image": directions},
    }
    (section,) = retrieval.retrieval_sections(results)
    assert (section.title, section.note) == ("Retrieval", f"Zero-shot. {retrieval.NOTE}")
    assert section.columns == ("R@1", "R@5", "R@10", "median rank", "candidates")
    assert [name for name, _ in section.rows] == ["birds: caption → image", "birds: image → caption"]
    cells = section.rows[0][1]
    assert [cell.text for cell in cells] == ["25.0%", "50.0%", "75.0%", "4.5", "40"]
    assert [cell.chance for cell in cells[:4]] == ["2.5%", "12.5%", "25.0%", "20.5"]
    assert (cells[0].share, cells[0].chance_share) == (0.25, 1 / 40)


def test_a_kind_of_several_sets_has_a_row_of_them_all() -> None:
    directions = {"text_to_vision": row_of(4, 0.25), "vision_to_text": row_of(4, 0.125)}
    two = {name: {"kind": "image", "retrieval": directions} for name in ("birds", "dogs")}
    (section,) = retrieval.retrieval_sections({"sets": two, "retrieval": {"image": directions}})
    assert [name for name, _ in section.rows][-2:] == ["all sets: caption → image", "all sets: image → caption"]
    assert len(section.rows) == 6
    assert section.rows[0][1][2].chance == "100.0%", "chance is at most 1"
    (section,) = retrieval.retrieval_sections({"retrieval": {"image": directions}})
    assert [name for name, _ in section.rows] == ["held out: caption → image", "held out: image → caption"]
    assert retrieval.retrieval_sections({}) == []


def test_figures_by_direction_and_the_number_of_candidates() -> None:
    directions = {"text_to_vision": row_of(40, 0.25), "vision_to_text": row_of(40, 0.125)}
    found = retrieval.retrieval_figures({"retrieval": directions})
    assert found == {
        **{f"text_to_vision_{key}": directions["text_to_vision"][key] for key in retrieval.FIGURES},
        **{f"vision_to_text_{key}": directions["vision_to_text"][key] for key in retrieval.FIGURES},
        "candidates": 40,
    }
    assert retrieval.retrieval_figures({}) == {}


def test_figures_of_the_matching_head_have_names_of_their_own() -> None:
    directions = {"text_to_vision": row_of(40, 0.25), "vision_to_text": row_of(40, 0.125)}
    matching = {"text_to_vision": row_of(40, 0.75), "vision_to_text": row_of(40, 0.625)}
    found = retrieval.retrieval_figures({"retrieval": directions, "matching": matching})
    assert found["matching_text_to_vision_r1"] == 0.75
    assert found["matching_vision_to_text_r1"] == 0.625
    assert found["text_to_vision_r1"] == 0.25
    assert len(found) == 4 * len(retrieval.FIGURES) + 1


def test_the_matching_head_sorts_the_first_candidates_again_in_both_directions() -> None:
    """Three images, four captions (image 1 has two); contrastive scores put the neighbor first."""
    eye = torch.eye(3)
    owners = [0, 1, 1, 2]
    text = eye[[1, 2, 2, 0]] + 0.5 * eye[owners]
    listed = Shortlist(
        images=torch.tensor([[1, 0], [2, 1], [2, 1], [0, 2]]),
        image_scores=torch.tensor([[0.1, 0.9], [0.2, 0.8], [0.9, 0.8], [0.3, 0.7]]),
        texts=torch.tensor([[3, 0], [0, 1], [2, 1]]),
        text_scores=torch.tensor([[0.1, 0.9], [0.6, 0.4], [0.7, 0.4]]),
    )
    encoded = Encoded("image", [text], [eye], list("abc"), list("tuvw"), owners=owners, shortlist=listed)
    found = retrieval.rank_set(encoded)
    assert found["retrieval"]["text_to_vision"]["r1"] == 0.0
    assert found["matching"]["text_to_vision"]["r1"] == 0.75
    # of image 2 no caption is in the shortlist: its contrastive rank, 2 of those that are not its own, stays
    ranks = retrieval.contrastive_ranks(text, eye, torch.tensor(owners))[1]
    assert found["matching"]["vision_to_text"]["r1"] == pytest.approx((1 + 0 + float(ranks[2] == 1)) / 3)
    assert found["matching"]["vision_to_text"]["median_rank"] == sorted([1, 2, int(ranks[2])])[1]
    assert found["matching"]["vision_to_text"]["right"] == pytest.approx(4 / 3)
    assert found["matching"]["text_to_vision"]["candidates"] == 3


def test_captions_of_several_sets_keep_their_own_samples() -> None:
    eye = torch.eye(4)
    sets = {
        "first": Encoded("image", [eye[[0, 0, 1]]], [eye[:2]], ["a", "b"], ["a1", "a2", "b1"], owners=[0, 0, 1]),
        "second": Encoded("image", [eye[[2, 3, 3]]], [eye[2:]], ["c", "d"], ["c1", "d1", "d2"], owners=[0, 1, 1]),
    }
    found = retrieval.evaluate_retrieval(sets)
    row = found["retrieval"]["image"]
    assert row["text_to_vision"]["r1"] == row["vision_to_text"]["r1"] == 1.0
    assert row["vision_to_text"]["right"] == 1.5
    assert [(e["sample_id"], e["caption"]) for e in found["examples"]] == list(
        zip("aabcdd", ["a1", "a2", "b1", "c1", "d1", "d2"], strict=True)
    )
    assert {e["kind"] for e in found["examples"]} == {"image"}


def test_an_image_without_a_caption_counts_as_one_without_a_right_candidate() -> None:
    found = retrieval.rank_metrics(torch.eye(3)[:2], torch.eye(3), torch.tensor([0, 1]))
    assert found["vision_to_text"]["right"] == pytest.approx(2 / 3)
    assert found["text_to_vision"]["candidates"] == 3
    for text, vision in ((torch.eye(3), torch.zeros(0, 3)), (torch.zeros(0, 3), torch.eye(3))):
        with pytest.raises(ValueError, match=r"^there is no pair to rank$"):
            retrieval.rank_metrics(text, vision, torch.zeros(len(text), dtype=torch.int64))


def test_owners_are_heeded() -> None:
    """Captions in another order than their images."""
    eye = torch.eye(3)
    found = retrieval.rank_metrics(eye[[2, 0, 1]], eye, torch.tensor([2, 0, 1]))
    assert found["text_to_vision"]["r1"] == found["vision_to_text"]["r1"] == 1.0


def test_sections_say_the_protocol_and_how_each_row_was_ranked() -> None:
    directions = {"text_to_vision": row_of(40, 0.25), "vision_to_text": row_of(40, 0.125)}
    protocol = {"captions": "all", "rerank": 16, "frames": 8, "weights": "fine-tuned"}
    row = {"kind": "video", "retrieval": directions, "matching": directions, "protocol": protocol}
    (section,) = retrieval.retrieval_sections({"sets": {"clips": row}})
    assert section.note == (f"Fine-tuned; every caption of a sample counts; videos show 8 frames. {retrieval.NOTE}")
    assert [name for name, _ in section.rows] == [
        "clips, contrastive: caption → video",
        "clips, contrastive: video → caption",
        "clips, matching head over the first 16: caption → video",
        "clips, matching head over the first 16: video → caption",
        "all sets: caption → video",
        "all sets: video → caption",
    ][:4]
    other = protocol | {"captions": "first", "weights": "zero-shot", "frames": 4}
    (section,) = retrieval.retrieval_sections({"sets": {"clips": row | {"protocol": other}}})
    assert section.note.startswith("Zero-shot; the first caption counts; videos show 4 frames. On held-out")


def test_rows_of_older_results_have_chances_by_their_queries() -> None:
    row = {"n": 4, "r1": 0.25, "r5": 0.5, "r10": 0.75, "median_rank": 2.0}
    cells = retrieval._cells(row)
    assert [cell.chance for cell in cells] == ["25.0%", "100.0%", "100.0%", "2.5", ""]
    assert cells[-1].text == "4"
    cells = retrieval._cells(
        row | {"candidates": 20, "right": 2, "chance_r1": 0.1, "chance_r5": 0.4, "chance_r10": 0.8}
    )
    assert [cell.chance for cell in cells] == ["10.0%", "40.0%", "80.0%", "7", ""]
    assert cells[-1].text == "20"


def test_cosine_is_of_rows() -> None:
    text, vision = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    assert retrieval.cosine(text, vision).tolist() == [[pytest.approx(0.8)], [0.0]]
    assert retrieval.cosine(text, vision).dtype == torch.float64


def test_the_protocol_and_the_names_of_figures_follow_from_the_configuration() -> None:
    config = load_config("finetune/retrieval_coco")
    assert retrieval.protocol_of(config)["weights"] == "fine-tuned"
    zero_shot = load_config("quickstart", ["evaluation.rerank=0"])
    assert retrieval.protocol_of(zero_shot)["weights"] == "zero-shot"
    names = retrieval.retrieval_names(zero_shot)
    assert names == [f"{way}_{figure}" for way in retrieval.DIRECTIONS for figure in retrieval.FIGURES]
    both = retrieval.retrieval_names(load_config("quickstart", ["evaluation.rerank=4"]))
    assert both == [*names, *(f"matching_{name}" for name in names)]
