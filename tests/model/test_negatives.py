"""Hard ITM negatives: drawn by similarity within the group, and the step is the plain one on what was drawn."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sclds.batch import ITM_DRAWS
from sclds.batch.duplicates import wrong_partners
from sclds.config import LossesConfig
from sclds.model.negatives import hard_partners, with_hard_negatives
from tests.model.samples import assert_equal, model_of, pack_samples, packed, plain, sample

HARD = LossesConfig(itm_negatives="hard")


def _group(kinds="iiiivvvi", seed=3):
    """Return two groups of four images and videos, every other text beside a wrong picture of its kind."""
    rng = np.random.default_rng(seed)
    views = []
    for i, kind in enumerate(kinds):
        alike = [j for j in range(i // 4 * 4, i // 4 * 4 + 4) if kinds[j] == kind and j != i]
        partner = alike[0] if i % 2 and alike else i
        shape = {"i": ("image", 1), "v": ("video", 2)}[kind]
        views.append(
            replace(sample(i, *shape, inner=3 + i % 3, partner=partner), itm_draw=int(rng.integers(ITM_DRAWS)))
        )
    return views


def _by_loop(text, vision, temperature, views, group):
    """Draw each partner as the definition says, one text at a time."""
    chosen = []
    for i, view in enumerate(views):
        others = [j for j in range(i // group * group, min(len(views), (i // group + 1) * group)) if j != i]
        packed_with = views[view.itm_partner]
        others = [j for j in others if (views[j].kind, views[j].frames) == (packed_with.kind, packed_with.frames)]
        if view.itm_label:
            chosen.append(i)
            continue
        similarity = [float(torch.cosine_similarity(text[i], vision[j], dim=0)) / float(temperature) for j in others]
        weights = np.exp(similarity) / np.exp(similarity).sum()
        chosen.append(others[int(np.searchsorted(np.cumsum(weights), view.itm_draw / ITM_DRAWS, side="right"))])
    return chosen


@pytest.mark.parametrize("order", [None, tuple(range(7, -1, -1))])
@pytest.mark.parametrize("layers", [1, 2])
def test_the_step_is_the_plain_one_on_the_partners_of_a_loop(order, layers):
    views, model = _group(), model_of(layers)
    batch = pack_samples(views, HARD, group_size=4, order=order, layers=layers)
    outputs = {name: x.detach() for name, x in model(batch).items()}
    chosen = _by_loop(outputs["text_proj"], outputs["vision_proj"], outputs["temperature"], views, 4)
    found = hard_partners(outputs["text_proj"], outputs["vision_proj"], outputs["temperature"], batch.negatives)
    assert found.tolist() == chosen
    assert chosen != [v.itm_partner for v in views]
    drawn = [replace(v, itm_partner=p) for v, p in zip(views, chosen, strict=True)]
    wanted = model(pack_samples(drawn, LossesConfig(), order=order, layers=layers))
    torch.testing.assert_close(outputs["itm_logits"], wanted["itm_logits"])
    assert_equal(packed(model, views, HARD, group_size=4), plain(model, drawn, LossesConfig()))


def test_draws_follow_the_softmax():
    """Three candidates of known similarity, over evenly spread counters; the first is the text itself."""
    views = [sample(i, partner=(i + 1) % 4) for i in range(4)]
    batch = pack_samples(views, HARD)
    text, temperature = torch.eye(4)[:1].expand(4, 4), torch.tensor(0.5)
    cosine = torch.tensor([0.9, 0.2, 0.5, -0.4])
    vision = torch.stack((cosine, (1 - cosine**2).sqrt(), torch.zeros(4), torch.zeros(4)), dim=1)
    counts, draws = torch.zeros(4), 1000
    for k in range(draws):
        negatives = replace(batch.negatives, draw=torch.full((4,), int((k + 0.5) * ITM_DRAWS / draws)))
        counts[hard_partners(text, vision, temperature, negatives)[0]] += 1
    wanted = (cosine[1:] / 0.5).softmax(0)
    assert counts[0] == 0
    torch.testing.assert_close(counts[1:] / draws, wanted, atol=1.5 / draws, rtol=0)


def test_a_split_draws_what_the_whole_draws():
    views = _group()
    whole = pack_samples(views, HARD, group_size=4)
    generator = torch.Generator().manual_seed(0)
    text, vision = (torch.randn(8, 6, generator=generator) for _ in range(2))
    found = hard_partners(text, vision, torch.tensor(0.07), whole.negatives).tolist()
    for first in (0, 4):
        part = [replace(v, itm_partner=v.itm_partner - first) for v in views[first : first + 4]]
        batch = pack_samples(part, HARD, group_size=4)
        rows = slice(first, first + 4)
        drawn = hard_partners(text[rows], vision[rows], torch.tensor(0.07), batch.negatives)
        assert (drawn + first).tolist() == found[rows]


@pytest.mark.parametrize(("duplicates", "same"), [("negatives", {1}), ("ignore", {1, 2, 3}), ("positives", {1, 2, 3})])
def test_a_wrong_partner_is_never_the_sample_itself_nor_its_duplicate(duplicates, same):
    """Of text 0, row 1 is the same sample, row 2 has its caption, row 3 its image, row 4 is a video; row 5 is left."""
    views = [sample(i, *(("video", 2) if i == 4 else ("image", 1)), partner=i or 5) for i in range(6)]
    changes = {0: {"caption": "An arrow", "image_id": 9}, 1: {"sample_id": "0"}, 2: {"caption": "an  Arrow."}}
    changes[3] = {"image_id": 9}
    views = [replace(view, **changes.get(i, {})) for i, view in enumerate(views)]
    batch = pack_samples(views, HARD.model_copy(update={"duplicates": duplicates}))
    allowed = batch.negatives.allowed[0]
    assert set(batch.negatives.members[0][allowed].tolist()) == {1, 2, 3, 5} - same
    possible = wrong_partners(views, np.zeros(1, int), np.arange(6), duplicates=duplicates == "negatives")
    assert set(np.flatnonzero(possible).tolist()) == {1, 2, 3, 5} - same


def test_no_gradient_flows_through_the_draw_and_lengths_stay():
    batch = pack_samples(_group(), HARD, group_size=4)
    vision = torch.eye(8, requires_grad=True)
    text = torch.eye(8)[[0, 3, 2, 2, 4, 6, 6, 7]].requires_grad_()
    drawn = with_hard_negatives(text, vision, torch.tensor(0.07, requires_grad=True), batch)
    assert replace(drawn, pairs=batch.pairs) == batch
    assert replace(drawn.pairs, vision_rows=batch.pairs.vision_rows) == batch.pairs
    assert drawn.pairs.vision_rows.shape == batch.pairs.vision_rows.shape
    assert not torch.equal(drawn.pairs.vision_rows, batch.pairs.vision_rows)
    assert not drawn.pairs.vision_rows.requires_grad


def test_a_diverged_model_draws_within_its_candidates():
    batch = pack_samples(_group(), HARD, group_size=4)
    nothing = torch.full((8, 6), float("nan"))
    drawn = hard_partners(nothing, nothing, torch.tensor(0.07), batch.negatives)
    allowed = batch.negatives.allowed.gather(1, (drawn % 4)[:, None]).squeeze(1)
    assert (allowed | (drawn == torch.arange(8))).all()
