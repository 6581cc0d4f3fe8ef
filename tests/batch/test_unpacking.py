"""What is read back out of a packed batch is what went in: views, targets, partners."""

import numpy as np
import pytest
import torch

from sclds.batch.unpacking import GREY, grayed, sample_of
from sclds.config.reading import parse_config
from sclds.data.loader import TrainingBatches
from sclds.data.samples import SampleMaker
from sclds.data.tokenizer import load_tokenizer
from tests.data.synthetic import caption, clip, image_members


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("embedded")


@pytest.fixture
def mixed(make_config):
    """Images and videos of different sizes in one batch."""
    clips = {}
    for k in range(6):
        clips |= {f"c{k}.webm": clip(9), f"c{k}.json": caption(f"a moving thing, the {k}th of many, grows brighter")}
    config = make_config(
        [image_members([f"p{k}" for k in range(6)])],
        [clips],
        {"global_size": 8, "max_micro_size": 8, "group_size": 4},
        video_size=24,
    )

    def with_losses(**losses):
        return parse_config({**config.model_dump(mode="json"), "losses": losses})

    return with_losses


def packed(config, tokenizer):
    """Return the first batch and the views of its samples."""
    batches = TrainingBatches(config, tokenizer, 0, 1, 8, 1)
    (batch,) = next(iter(batches))
    maker = SampleMaker(config, tokenizer, batches.index)
    views = [maker(place.sample, (place.epoch, place.repeat)).views for place in batches.order.global_batch(0)]
    assert {view.kind for view in views} == {"image", "video"}
    return batch, views


def test_every_view_is_read_back(mixed, tokenizer):
    config = mixed(mltc_image=0.2)
    batch, views = packed(config, tokenizer)
    for row, view in enumerate(views):
        seen = sample_of(batch, row, config)
        assert (seen.sample_id, seen.kind, seen.caption) == (view.sample_id, view.kind, view.caption)
        side = 32 if view.kind == "image" else 24
        assert seen.frames.shape == (view.frames, 3, side, side)
        for name, field in (("t0", "text"), ("t1", "text_mlm"), ("t2", "text_scl")):
            assert seen.texts[name].tolist() == getattr(view, field).tolist()
        assert seen.mlm == dict(zip(view.mlm_positions.tolist(), view.mlm_labels.tolist(), strict=True))
        for frame in range(view.frames):
            assert np.flatnonzero(~seen.hidden["v1"][frame].flatten()).tolist() == view.keep.tolist()
            assert sorted(view.replaced.tolist()) == np.flatnonzero(seen.hidden["v2"][frame].flatten()).tolist()
        assert (seen.itm_partner == row) == bool(batch.labels.itm[row])
        assert seen.itm_partner // 4 == row // 4
        assert batch.samples.kinds[seen.itm_partner] == view.kind


def test_frames_are_those_of_the_clip(mixed, tokenizer):
    config = mixed()
    batch, _ = packed(config, tokenizer)
    row = batch.samples.kinds.index("video")
    levels = sample_of(batch, row, config).frames.mean((1, 2, 3)) * 255 / 20
    assert torch.equal(levels.round(), levels.round().sort().values)  # frame k is uniformly grey at 20·k
    assert len(levels.round().unique()) == 4


def test_what_is_not_in_use_is_not_shown(mixed, tokenizer):
    config = mixed(itm=0.0, mlm=0.0)
    batch, _ = packed(config, tokenizer)
    seen = sample_of(batch, 0, config)
    assert (list(seen.hidden), list(seen.texts), seen.itm_partner, seen.mlm) == (["v1"], ["t0", "t2"], None, {})


def test_the_economy_mode_predicts_words_of_the_text_that_completion_masks(mixed, tokenizer):
    config = mixed(mlm_view="t2")
    batch, views = packed(config, tokenizer)
    for row, view in enumerate(views):
        seen = sample_of(batch, row, config)
        assert list(seen.texts) == ["t0", "t2"]
        assert seen.mlm == dict(zip(view.mlm_positions.tolist(), view.mlm_labels.tolist(), strict=True))


def test_a_partner_that_the_model_draws_is_not_made_up(mixed, tokenizer):
    config = mixed(itm_negatives="hard")
    batch, _ = packed(config, tokenizer)
    assert sample_of(batch, 0, config).itm_partner is None


def test_hidden_patches_are_grey(mixed, tokenizer):
    config = mixed()
    batch, _ = packed(config, tokenizer)
    seen = sample_of(batch, 0, config)
    hidden = torch.zeros_like(seen.hidden["v1"])
    hidden[0, 1, 2] = True
    covered = grayed(seen, hidden)
    assert (covered[0, :, 8:16, 16:24] == GREY).all()
    covered[0, :, 8:16, 16:24] = seen.frames[0, :, 8:16, 16:24]
    assert torch.equal(covered, seen.frames)


def test_pixels_beyond_black_and_white_are_shown_as_these(mixed, tokenizer):
    """What interpolation overshoots has no color of its own on a page."""
    config = mixed()
    batch, _ = packed(config, tokenizer)
    batch.vision.patches[0], batch.vision.patches[1] = -9.0, 9.0
    shown = sample_of(batch, 0, config).frames
    assert (shown[0, :, :8, :8] == 0).all()
    assert (shown[0, :, :8, 8:16] == 1).all()
