"""The packed step against its plain definition: five or six full passes over padded inputs, nothing shared."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sclds.config import LossesConfig
from sclds.model import scl
from sclds.objectives import objectives_in_use, pairs_in_use
from tests.model.samples import ALL, assert_equal, model_of, pack_samples, packed, plain, sample

MIXED = [
    sample(0, partner=1),
    sample(1, "video", 3, inner=1, hidden=1, partner=0),
    sample(2, "video", 1, inner=9, words=0, hidden=8, partner=2),
    sample(3, inner=2, words=2, partner=1),
]
BATCHES = {
    "one_inner_token": [sample(0, inner=1, hidden=1), sample(1, inner=8, partner=0)],
    "no_inner_token": [sample(0, inner=0, words=0, hidden=0), sample(1, partner=0), sample(2, inner=9)],
    "one_row": [sample(0)],
    "prime": [sample(i, inner=1 + i, hidden=1, partner=(i + i % 2) % 7) for i in range(7)],
    "clips_of_one_frame": [sample(i, "video", 1, partner=0) for i in range(3)],
    "clips_of_eight_frames": [sample(i, "video", 8, partner=1) for i in range(2)],
    "interpolated_positions": [sample(i, grid=2, partner=0) for i in range(2)],
    "no_masked_word": [sample(i, words=0) for i in range(3)],
    "all_but_cls_masked": [sample(i, inner=4, words=4, hidden=4, partner=0) for i in range(2)],
    "mixed": MIXED,
}


@pytest.mark.parametrize("name", BATCHES)
def test_losses_and_gradients_equal_the_plain_definition(name):
    model = model_of()
    assert_equal(packed(model, BATCHES[name]), plain(model, BATCHES[name]))


@pytest.mark.parametrize("layers", [1, 3])
def test_with_one_and_three_fusion_layers(layers):
    model = model_of(layers)
    assert_equal(packed(model, MIXED), plain(model, MIXED))


OFF = {
    "contrastive_only": {"itm": 0, "mlm": 0, "mvsc": 0, "mlsc": 0},
    "completion_only": {"contrastive": 0, "itm": 0, "mlm": 0},
    "one_completion": {"contrastive": 0, "itm": 0, "mlm": 0, "mlsc": 0},
    "no_mlm": {"mlm": 0, "itm": 2},
    "itm_only": {"contrastive": 0, "mlm": 0, "mvsc": 0, "mlsc": 0},
    "local_images_only": {"contrastive": 0, "itm": 0, "mlm": 0, "mvsc": 0, "mlsc": 0, "mltc_image": 1},
    "local_texts_only": {"contrastive": 0, "itm": 0, "mlm": 0, "mvsc": 0, "mlsc": 0, "mltc_text": 1},
}


@pytest.mark.parametrize("name", OFF)
@pytest.mark.parametrize("layers", [1, 2])
def test_an_objective_of_weight_zero_is_not_computed(name, layers):
    losses = LossesConfig(**OFF[name])
    model = model_of(layers)
    found = packed(model, MIXED, losses)
    assert_equal(found, plain(model, MIXED, losses))
    assert set(found[0]) == {n for n in LossesConfig.model_fields if _is_on(losses, n)} | {"total"}
    batch = pack_samples(MIXED, losses)
    pairs = pairs_in_use(objectives_in_use(losses))
    assert len(batch.lengths.pair_text_cu_seqlens) - 1 == len(pairs) * len(MIXED)


def _is_on(losses, name):
    return name in ("contrastive", "sigmoid", "itm", "mlm", "mvsc", "mlsc", "mltc_image", "mltc_text") and getattr(
        losses, name
    )


@pytest.mark.parametrize("contrastive", [0.0, 0.5])
def test_the_pairwise_loss_equals_its_plain_definition(contrastive):
    losses = LossesConfig(contrastive=contrastive, sigmoid=0.8)
    model = model_of(sigmoid=True)
    found = packed(model, MIXED, losses)
    assert_equal(found, plain(model, MIXED, losses))
    assert all(found[1][f"pairwise_logit.{name}"].abs() > 1e-3 for name in ("log_scale", "bias"))


@pytest.mark.parametrize("duplicates", ["negatives", "ignore", "positives"])
def test_duplicates_are_what_the_setting_says(duplicates):
    """Three of one caption, two of one image, videos of one video: in every loss by what it compares."""
    changes = [{"caption": "Arrow."}, {"caption": " arrow"}, {"image_id": 4}, {"image_id": 4}, {"image_id": 5}]
    changes += [{"image_id": 5, "caption": "arrow"}, {}]
    shapes = [()] * 4 + [("video", 3), ("video", 2), ()]
    views = [replace(sample(i, *shapes[i]), **changes[i]) for i in range(7)]
    losses = ALL.model_copy(update={"sigmoid": 0.8, "duplicates": duplicates})
    model = model_of(sigmoid=True)
    found, wanted = packed(model, views, losses), plain(model, views, losses)
    assert_equal(found, wanted)
    published, _ = packed(model, views, losses.model_copy(update={"duplicates": "negatives"}))
    changed = {name for name in published if not torch.equal(published[name], found[0][name])}
    assert changed == (set() if duplicates == "negatives" else {"contrastive", "sigmoid", "mvsc", "mlsc", "total"})


ECONOMY = {
    "all": {},
    "with_local_terms": {"mltc_image": 0.2, "mltc_text": 0.2},
    "mlm_alone": {"contrastive": 0, "itm": 0, "mvsc": 0, "mlsc": 0},
}


@pytest.mark.parametrize("name", ECONOMY)
@pytest.mark.parametrize("layers", [1, 2])
def test_one_masked_text_serves_both_objectives(name, layers):
    """With `mlm_view: t2` the step is the plain definition with MLM's pass on t2, and t1 is in no buffer."""
    losses = LossesConfig(mlm_view="t2", **ECONOMY[name])
    views = [_mlm_on_hidden_words(v) for v in MIXED]
    model = model_of(layers)
    found, wanted = packed(model, views, losses), plain(model, views, losses)
    assert found[0]["mlm"] > 0
    assert_equal(found, wanted)
    batch = pack_samples(views, losses)
    assert "mlm" not in batch.pairs.names
    assert batch.text.names == ("t0", "t2")
    assert len(batch.lengths.text_cu_seqlens) - 1 == 2 * len(views)


def _mlm_on_hidden_words(view):
    words = view.scl_positions
    return replace(view, text_mlm=np.zeros_like(view.text), mlm_positions=words, mlm_labels=view.text[words])


def test_views_that_no_objective_reads_are_not_packed():
    batch = pack_samples(MIXED, LossesConfig(**OFF["contrastive_only"]))
    assert (batch.text.names, batch.vision.names) == (("t0",), ("v0",))
    assert len(batch.lengths.vision_cu_seqlens) - 1 == len(MIXED)


@pytest.mark.parametrize("order", [(3, 2, 1, 0), (1, 3, 0, 2)])
def test_packing_order_changes_nothing(order):
    model = model_of()
    wanted, found = (model(pack_samples(MIXED, order=o)) for o in (None, order))
    assert found.keys() == wanted.keys()
    for name in wanted.keys() - {"text_views", "vision_views"}:
        torch.testing.assert_close(found[name], wanted[name], msg=lambda m, n=name: f"{n}: {m}")
    assert not torch.equal(found["text_views"], wanted["text_views"])


def test_local_image_negatives_are_those_of_the_group():
    model, views = model_of(), [sample(i, partner=0) for i in range(4)]
    found = packed(model, views, group_size=2)
    assert_equal(found, plain(model, views, group_size=2))
    assert abs(found[0]["mltc_image"] - packed(model, views)[0]["mltc_image"]) > 1e-2


def test_projections_are_handed_over_before_fusion_begins(monkeypatch):
    events, fuse = [], scl.fuse
    monkeypatch.setattr(scl, "fuse", lambda *a: events.append("fusion") or fuse(*a))
    outputs = model_of()(pack_samples(MIXED), lambda early: events.append(sorted(early)))
    assert events == [["temperature", "text_proj", "text_views", "vision_proj", "vision_views"], "fusion"]
    assert set(events[0]) < set(outputs)


def test_checkpointing_changes_nothing():
    plain_model, recomputing = model_of(), model_of(recompute=True)
    found, wanted = packed(recomputing.train(), MIXED), packed(plain_model.train(), MIXED)
    assert_equal(found, wanted, 1e-12)


def test_order_of_samples_changes_nothing_but_the_order():
    model = model_of()
    order = [2, 0, 3, 1]
    turned = [_renumbered(MIXED[i], order.index(MIXED[i].itm_partner)) for i in order]
    views = model(pack_samples(MIXED))["itm_logits"]
    pieces = model(pack_samples(MIXED))["text_proj"]
    rows = torch.cat([_pixels_of(i) for i in order])
    outputs = model(pack_samples(turned, ALL, patches=rows))
    torch.testing.assert_close(outputs["itm_logits"], views[order])
    torch.testing.assert_close(outputs["text_proj"], pieces[order])


def _renumbered(view, partner):
    return replace(view, itm_partner=partner)


def _pixels_of(i):
    from tests.model.samples import pixels

    return pixels(MIXED).split([v.frames * v.grid**2 for v in MIXED])[i]
