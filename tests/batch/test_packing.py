"""The packed batch holds what the views say, row by row."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from scl_kernels import CLASS_ROW, MASK_ROW
from sclds.batch import Recipe, pack, packing, recipe_of
from sclds.batch.attention_plan import Planner
from sclds.config import LossesConfig
from sclds.config.reading import load_config
from sclds.machine.attention import AttentionBackends
from sclds.objectives import objectives_in_use, pairs_in_use
from tests.model.samples import GRIDS, PAD, pack_samples, pixels, sample


def names(losses):
    return tuple(pair.name for pair in pairs_in_use(objectives_in_use(losses)))


VIEWS = [sample(0, "video", 2, partner=1), sample(1, inner=1, hidden=1, partner=0), sample(2, inner=7)]


def test_text_views_lie_one_after_the_other_equal_sizes_side_by_side():
    batch = pack_samples(VIEWS)
    assert batch.samples.order == (1, 2, 0)
    views = [VIEWS[i] for i in batch.samples.order]
    texts = [v.text for v in views] + [v.text_mlm for v in views] + [v.text_scl for v in views]
    for text, first, last in zip(
        texts, batch.lengths.text_cu_seqlens[:-1], batch.lengths.text_cu_seqlens[1:], strict=True
    ):
        assert np.array_equal(batch.text.ids[first:last], text)
        assert np.array_equal(batch.text.positions[first:last], np.arange(len(text)) + PAD + 1)


def test_pictures_come_before_clips_and_frames_start_with_their_class():
    batch = pack_samples(VIEWS)
    start = batch.vision.videos.start
    assert (batch.vision.frame[:start] == -1).all()
    assert (batch.vision.frame[start:] >= 0).all()
    assert (batch.vision.source[batch.lengths.frame_cu_seqlens[:-1].long()] == CLASS_ROW).all()
    assert (batch.vision.source == CLASS_ROW).sum() == len(batch.lengths.frame_cu_seqlens) - 1
    assert (batch.vision.source == MASK_ROW).sum() == sum(v.frames * len(v.replaced) for v in VIEWS)


def test_itm_shows_the_partners_picture():
    batch = pack_samples(VIEWS, LossesConfig(contrastive=0, mlm=0, mvsc=0, mlsc=0))
    assert batch.pairs.names == ("itm",)
    lengths = batch.lengths.pair_vision_cu_seqlens.diff().tolist()
    partners = [VIEWS[VIEWS[i].itm_partner] for i in batch.samples.order]
    assert lengths == [p.frames * (p.grid**2 + 1) for p in partners]
    assert batch.labels.itm.tolist() == [0, 0, 1]


def test_pairs_are_those_of_the_objectives_in_use():
    off = {"contrastive": 1, "mlm": 0, "itm": 0, "mvsc": 0, "mlsc": 0}
    assert names(LossesConfig(**off)) == ()
    assert names(LossesConfig(**off | {"mlsc": 1})) == ("mvsc", "mlsc")
    assert names(LossesConfig(**off | {"mltc_image": 1})) == ("mlsc", "mltc")
    assert names(LossesConfig(**off | {"mvsc": 1, "itm": 1})) == ("itm", "mvsc", "mlsc")
    assert names(LossesConfig(mltc_image=1)) == ("mlm", "mvsc", "mlsc", "itm", "mltc")


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_attention_of_equal_segments_is_planned_and_moved_once(monkeypatch, layers):
    """The text encoder and fusion's first layer attend alike within texts, images within frames and within views."""
    from sclds.batch import attention_plan

    planned, plan = [], attention_plan.plan_attention

    def noted(cu_seqlens_q, cu_seqlens_k, backend):
        planned.append((cu_seqlens_q.tolist(), cu_seqlens_k.tolist(), backend))
        return plan(cu_seqlens_q, cu_seqlens_k, backend)

    monkeypatch.setattr(attention_plan, "plan_attention", noted)
    batch = pack_samples([sample(0, partner=1), sample(1, inner=3, partner=0)], layers=layers)
    assert not [key for key in planned if planned.count(key) > 1]
    first = batch.pairs.attention.first or batch.pairs.attention.last
    assert [stream.self_attention for stream in first] == [batch.text.attention, batch.vision.attention]
    moved = batch.in_one_block()
    first = moved.pairs.attention.first or moved.pairs.attention.last
    assert first[0].self_attention is moved.text.attention


def test_call_sites_of_different_backends_have_plans_of_their_own():
    views = [sample(0, partner=1), sample(1, inner=3, partner=0)]
    attention = AttentionBackends("flash_attn_3", "flash_attn", "torch_varlen", "sdpa")
    batch = pack(views, pixels(views), Recipe(PAD, LossesConfig(), GRIDS, 2, 3, attention))
    streams = [stream for place in ("first", "middle", "last") for stream in getattr(batch.pairs.attention, place)]
    assert {stream.self_attention.backend for stream in streams} == {"torch_varlen"}
    assert {stream.cross_attention.backend for stream in streams} == {"sdpa"}
    assert (batch.vision.attention.backend, batch.text.attention.backend) == ("flash_attn_3", "flash_attn")


@pytest.mark.parametrize(("tower", "pools"), [("clip", False), ("siglip2", True), ("perception_encoder", False)])
def test_the_recipe_of_a_run_is_its_configuration(tower, pools):
    config = load_config("quickstart", [f"model.vision.type={tower}", "batch.group_size=4", "losses.itm=0.5"])
    recipe = recipe_of(config, 7)
    assert (recipe.pad_id, recipe.losses, recipe.group_size) == (7, config.losses, 4)
    assert (recipe.fusion_layers, recipe.max_frames) == (config.model.fusion.layers, config.model.vision.max_frames)
    assert recipe.pools_frames == pools


def test_frames_pool_over_the_patches_of_their_image_or_clip():
    """Two pictures of 2 and 3 patches, then clips of 1 and 2 frames of 4 patches, each frame's [CLS] first."""
    frame_patches, clips = [2, 3, 4, 4, 4], [1, 2]
    cu_seqlens = torch.tensor([0, *np.cumsum([n + 1 for n in frame_patches]).tolist()], dtype=torch.int32)
    lengths = SimpleNamespace(
        frame_cu_seqlens=cu_seqlens,
        video_cls_cu_seqlens=torch.tensor([0, 1, 3], dtype=torch.int32),
        video_cu_seqlens=torch.tensor([0, 5, 15], dtype=torch.int32),
    )
    found = packing._frame_pooling(lengths, "torch_varlen", Planner())
    cls_rows = cu_seqlens[:-1].tolist()
    patch_rows = [row for row in range(int(cu_seqlens[-1])) if row not in cls_rows]
    assert found.cls_rows.tolist() == cls_rows
    assert found.patch_rows.tolist() == patch_rows
    both = cls_rows + patch_rows
    assert found.merged.tolist() == [both.index(row) for row in range(int(cu_seqlens[-1]))]
    assert found.attention.cu_seqlens_q.tolist() == found.attention.cu_seqlens_k.tolist() == [0, 2, 5, 9, 13, 17]
    assert found.pooling.cu_seqlens_q.tolist() == np.cumsum([0, 1, 1, *clips]).tolist()
    assert found.pooling.cu_seqlens_k.tolist() == np.cumsum([0, 2, 3, 4, 8]).tolist()
    for cumulative in (found.attention.cu_seqlens_q, found.pooling.cu_seqlens_q, found.pooling.cu_seqlens_k):
        assert cumulative.dtype == torch.int32
