"""The packed batch holds what the views say, row by row."""

import numpy as np

from sclds.batch.packing import CLASS_ROW, MASK_ROW, roles_of
from sclds.config import LossesConfig
from tests.model.samples import PAD, pack_samples, sample

VIEWS = [sample(0, "video", 2, partner=1), sample(1, inner=1, hidden=1, partner=0), sample(2, inner=7)]


def test_text_views_lie_one_after_the_other_equal_sizes_side_by_side():
    batch = pack_samples(VIEWS)
    assert batch["order"] == (1, 2, 0)
    views = [VIEWS[i] for i in batch["order"]]
    texts = [v.text for v in views] + [v.text_mlm for v in views] + [v.text_scl for v in views]
    for text, first, last in zip(texts, batch["text_cu"][:-1], batch["text_cu"][1:], strict=True):
        assert np.array_equal(batch["text_ids"][first:last], text)
        assert np.array_equal(batch["text_positions"][first:last], np.arange(len(text)) + PAD + 1)


def test_pictures_come_before_clips_and_frames_start_with_their_class():
    batch = pack_samples(VIEWS)
    start = batch["clip_start"]
    assert (batch["vision_frame"][:start] == -1).all()
    assert (batch["vision_frame"][start:] >= 0).all()
    assert (batch["vision_source"][batch["frame_cu"][:-1].long()] == CLASS_ROW).all()
    assert (batch["vision_source"] == CLASS_ROW).sum() == len(batch["frame_cu"]) - 1
    assert (batch["vision_source"] == MASK_ROW).sum() == sum(v.frames * len(v.replaced) for v in VIEWS)


def test_itm_shows_the_partners_picture():
    batch = pack_samples(VIEWS, LossesConfig(contrastive=0, mlm=0, mvsc=0, mlsc=0))
    assert batch["roles"] == ("itm",)
    lengths = batch["pair_vision_cu"].diff().tolist()
    partners = [VIEWS[VIEWS[i].itm_partner] for i in batch["order"]]
    assert lengths == [p.frames * (p.grid**2 + 1) for p in partners]
    assert batch["itm_label"].tolist() == [0, 0, 1]


def test_pairs_are_those_of_the_objectives_in_use():
    off = {"contrastive": 1, "mlm": 0, "itm": 0, "mvsc": 0, "mlsc": 0}
    assert roles_of(LossesConfig(**off)) == ()
    assert roles_of(LossesConfig(**off | {"mlsc": 1})) == ("mvsc", "mlsc")
    assert roles_of(LossesConfig(**off | {"mltc_image": 1})) == ("mlsc", "mltc")
    assert roles_of(LossesConfig(mltc_image=1)) == ("mlm", "mvsc", "mlsc", "itm", "mltc")
