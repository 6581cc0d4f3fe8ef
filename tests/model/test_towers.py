"""Every vision tower on packed buffers against a plain definition: masked views, videos, images of several sizes."""

import hashlib

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from sclds.config import FusionConfig, ModelConfig, TextConfig, VisionConfig
from sclds.config.errors import ConfigError
from sclds.config.reading import load_config
from sclds.model import flops
from sclds.model.layers import rotate
from sclds.model.scl import SCLModel
from sclds.model.vision import VISION_TOWERS
from sclds.model.vision.perception_encoder import rotary_angles
from tests.batch.leaves import leaves
from tests.model.towers import ALL_VIEWS, PATCH, PLAIN, pack_vision, sample, tower_config, tower_of

TOWERS = sorted(VISION_TOWERS)
GRIDS = (3, 5)
SAMPLES = [sample(0, "image", 1, 5), sample(1, "video", 3, 3), sample(2, "image", 1, 3), sample(3, "video", 2, 5)]


def pixels(samples):
    rows = sum(s.frames * s.grid**2 for s in samples)
    return torch.randn(rows, 3 * PATCH**2, dtype=torch.float64, generator=torch.Generator().manual_seed(7))


def packed(kind, samples=SAMPLES, losses=ALL_VIEWS):
    return pack_vision(samples, pixels(samples), GRIDS, kind == "siglip2", losses)


# ------------------------------------------------------------------------------------------ plain definition


def positions(tower, kind, grid):
    """(patches, C) by the tower's own interpolation, and the row of [CLS] where it has one."""
    table = tower.embedding.position_embedding
    cls, table = (None, table) if kind == "siglip2" else (table[0], table[1:])
    native = round(len(table) ** 0.5)
    if native == grid:
        return cls, table
    mode = {"clip": "bicubic", "siglip2": "bilinear", "perception_encoder": "bilinear"}[kind]
    plane = table.unflatten(0, (native, native)).permute(2, 0, 1)[None].float()
    resized = F.interpolate(plane, (grid, grid), mode=mode, align_corners=False, antialias=kind == "siglip2")
    return cls, resized[0].permute(1, 2, 0).flatten(0, 1).double()


def tokens(tower, kind, sample, patches, view):
    """Return per frame the patch tokens, their numbers, and the token that becomes [CLS]."""
    e, frames = tower.embedding, []
    for number, frame in enumerate(patches.unflatten(0, (sample.frames, -1))):
        x = frame @ e.patch_weight.T + (e.patch_bias if kind == "siglip2" else 0)
        if view == "v2":
            x[torch.from_numpy(sample.replaced)] = e.mask_token
        cls_position, position = positions(tower, kind, sample.grid)
        time = e.temporal_embedding[number] if sample.kind == "video" else 0
        x = x + position + time
        shown = torch.from_numpy(sample.keep) if view == "v1" else torch.arange(sample.grid**2)
        cls = e.probe + time if kind == "siglip2" else e.class_embedding + cls_position + time
        frames.append((x[shown], shown, cls))
    return frames


def turned(x, places):
    """Turn (H, n, D) by the (row, column) of each token, None for [CLS]; one number at a time."""
    x, result = x.unflatten(-1, (-1, 2)), []
    for n, place in enumerate(places):
        count = x.shape[2] // 2
        angles = [0.0] * (2 * count)
        if place is not None:
            row, column = place
            frequencies = [10000.0 ** -(i / count) for i in range(count)]
            angles = [(column + 1) * f for f in frequencies] + [(row + 1) * f for f in frequencies]
        a = torch.tensor(angles, dtype=torch.float64)
        even, odd = x[:, n, :, 0], x[:, n, :, 1]
        result.append(torch.stack((even * a.cos() - odd * a.sin(), even * a.sin() + odd * a.cos()), -1).flatten(1))
    return torch.stack(result, 1)


def attention(q, k, v, heads):
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(0, 1) for t in (q, k, v))
    return ((q @ k.transpose(1, 2) * q.shape[-1] ** -0.5).softmax(-1) @ v).transpose(0, 1).flatten(1)


def activation(x, kind):
    gelu = {"siglip2": "tanh", "perception_encoder": "none"}.get(kind)
    return x * torch.sigmoid(1.702 * x) if gelu is None else F.gelu(x, approximate=gelu)


def mlp(module, x, kind):
    return module.down(activation(module.up(x), kind))


def block(module, kind, x, places, allowed):
    """One block on all tokens of a sample; `allowed` (n, n) says who attends to whom."""
    heads = module.heads
    norm = module.norm_2
    normed = F.linear(module.norm_1(x), module.qkv.weight, module.qkv.bias)
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(0, 1) for t in normed.chunk(3, dim=-1))
    if kind == "perception_encoder":
        q, k = turned(q, places), turned(k, places)
    scores = (q @ k.transpose(1, 2) * q.shape[-1] ** -0.5).masked_fill(~allowed, float("-inf"))
    x = x + module.out((scores.softmax(-1) @ v).transpose(0, 1).flatten(1))
    return x + mlp(module.mlp, F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps), kind)


def encoded(tower, kind, sample, patches, view):
    """Return one view of one sample, frame by frame with [CLS] first, by the words of docs/method.md."""
    frames = tokens(tower, kind, sample, patches, view)
    count, own_cls = len(frames[0][0]), kind != "siglip2"
    x = torch.cat([torch.cat((cls[None], shown)) if own_cls else shown for shown, _, cls in frames])
    places = []
    for _, numbers, _ in frames:
        places += [None] * own_cls + [(int(n) // sample.grid, int(n) % sample.grid) for n in numbers]
    per_frame = count + own_cls
    frame = torch.arange(len(frames)).repeat_interleave(per_frame)
    is_cls = torch.tensor([place is None for place in places])
    allowed = is_cls[:, None] | (frame[:, None] == frame[None])
    if own_cls:
        x = F.layer_norm(x, x.shape[-1:], tower.embedding.norm_weight, tower.embedding.norm_bias, tower.embedding.eps)
    for module in tower.blocks:
        x = block(module, kind, x, places, allowed)
    x = tower.norm(x)
    if own_cls:
        return x
    pool = tower.pooling
    k, v = pool.kv(x).chunk(2, -1)
    result = []
    for number, (_, _, probe) in enumerate(frames):
        cls = pool.out(attention(pool.q(probe[None]), k, v, pool.heads))
        cls = cls + mlp(pool.mlp, pool.norm(cls), kind)
        result += [cls, x[number * count : (number + 1) * count]]
    return torch.cat(result)


def plain(tower, kind, samples=SAMPLES, names=("v0", "v1", "v2")):
    """Return all views as packing lays them out: images view by view, then videos view by view."""
    parts = pixels(samples).split([s.frames * s.grid**2 for s in samples])
    return torch.cat(
        [
            encoded(tower, kind, s, part, name)
            for media in ("image", "video")
            for name in names
            for s, part in zip(samples, parts, strict=True)
            if s.kind == media
        ]
    )


@pytest.mark.parametrize("kind", TOWERS)
def test_packed_views_are_those_of_the_plain_definition(kind):
    """All views of images and videos of two sizes, and the gradient of every parameter."""
    tower = tower_of(tower_config(kind))
    results = []
    for x in (tower(packed(kind).vision), plain(tower, kind)):
        tower.zero_grad(set_to_none=True)
        weights = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(3))
        (x * weights).sum().backward()
        results.append((x.detach(), {name: p.grad for name, p in tower.named_parameters()}))
    (found, found_gradients), (expected, expected_gradients) = results
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(found_gradients[name], gradient, rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("kind", TOWERS)
@pytest.mark.parametrize("media", ["image", "video"])
def test_every_parameter_takes_part_whatever_the_batch_holds(kind, media):
    """Under ZeRO-3 every rank runs the same hooks, also for a batch without videos or masked views."""
    tower = tower_of(tower_config(kind))
    samples = [sample(i, media, 1 if media == "image" else 2, 3) for i in range(2)]
    tower(packed(kind, samples, PLAIN).vision).sum().backward()
    assert [name for name, p in tower.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("kind", TOWERS)
def test_recomputed_activations_change_nothing(kind):
    tower, batch = tower_of(tower_config(kind)), packed(kind)
    gradients = []
    for recompute in (False, True):
        tower.recompute = recompute
        tower.zero_grad(set_to_none=True)
        tower(batch.vision).square().sum().backward()
        gradients.append({name: p.grad for name, p in tower.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


@pytest.mark.parametrize("kind", TOWERS)
def test_flops_are_those_of_the_linear_maps_that_run(kind, monkeypatch):
    config, media = tower_config(kind, mlp_width=40), "video"
    samples = [sample(i, media, 2, 5) for i in range(2)]
    tower = tower_of(config)
    batch = pack_vision(samples, pixels(samples), (5,), config.pools_frames, ALL_VIEWS)
    with FlopCounterMode(display=False) as counter:
        tower(batch.vision)
    measured = sum(v for op, v in counter.get_flop_counts()["Global"].items() if str(op) in ("aten.addmm", "aten.mm"))
    monkeypatch.setattr(flops, "attention", lambda *_: 0)
    assert measured == 2 * VISION_TOWERS[kind].flops(config, 2, 25, [25, 6, 25])


def test_frames_of_a_still_video_differ_by_their_time_alone():
    """SigLIP 2's probe is one for all frames and attends to all: without time every frame's [CLS] would be equal."""
    tower = tower_of(tower_config("siglip2"))
    video = [sample(1, "video", 3, 3)]
    batch = pack_vision(video, pixels(video), GRIDS, True)
    rows = tower(batch.vision)[batch.vision.cls[0]]
    assert not torch.allclose(rows[0], rows[1])
    with torch.no_grad():
        tower.embedding.temporal_embedding.zero_()
    rows = tower(batch.vision)[batch.vision.cls[0]]
    torch.testing.assert_close(rows[0], rows[1])


def test_a_batch_for_a_tower_with_cls_has_nothing_of_pooling():
    with_pooling, without = leaves(packed("siglip2")), leaves(packed("clip"))
    assert without.pop("batch.vision.pooling") is None
    added = {name for name in with_pooling if name.startswith("batch.vision.pooling.")}
    assert added
    assert with_pooling.keys() - added == without.keys()
    with pytest.raises(ValueError, match="packed with pools_frames"):
        tower_of(tower_config("siglip2"))(packed("clip").vision)


def test_rotary_positions_tell_rows_from_columns_and_leave_cls_alone():
    cls, *patches = rotary_angles((2,), 8)
    assert cls.abs().max() == 0
    first, right, below, _ = patches
    assert torch.equal(first[2:], right[2:])
    assert torch.equal(first[:2], below[:2])
    assert torch.equal(right[:2], torch.tensor([2.0, 0.02]))
    x = torch.randn(4, 3, 8)
    angles = torch.stack(patches)
    torch.testing.assert_close(rotate(x, angles.cos(), angles.sin()).norm(dim=-1), x.norm(dim=-1))


INITIAL = {
    "clip": "9c810db8968c1967333ed1e314d32c739227c5b2f1777b6ff1465d7620e9544c",
}
"""Hash of names and initial values; CLIP's is that of runs from before there were other towers."""


@pytest.mark.parametrize("kind", sorted(INITIAL))
def test_initial_values_are_what_they_always_were(kind):
    sizes = {"width": 32, "layers": 2, "heads": 2, "patch_size": 4, "pretrained_image_size": 16}
    config = ModelConfig(
        vision=VisionConfig(type=kind, **sizes),
        text=TextConfig(width=24, layers=2, heads=3, max_positions=20),
        fusion=FusionConfig(width=32, layers=2, heads=2),
        projection=16,
    )
    model = SCLModel(config, 50)
    model.initialize(3)
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(name.encode() + parameter.detach().numpy().tobytes())
    assert digest.hexdigest() == INITIAL[kind]


@pytest.mark.parametrize("kind", ["siglip2", "perception_encoder"])
def test_initial_values_of_other_towers_have_clips_spread(kind):
    config = ModelConfig(vision=tower_config(kind, width=64), fusion=FusionConfig(width=12, layers=1))
    model = SCLModel(config, 10)
    model.initialize(0)
    tower = dict(model.vision_encoder.named_parameters())
    for name, parameter in tower.items():
        if name.endswith(("bias", "norm_weight")) or "norm" in name:
            assert parameter.std(correction=0) == 0, name
    assert abs(tower["blocks.0.qkv.weight"].std() * 8 - 1) < 0.05
    if kind == "siglip2":
        assert abs(tower["pooling.kv.weight"].std() * 8 - 1) < 0.05
        assert abs(tower["pooling.out.weight"].std() * 16 - 1) < 0.05


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.vision.type=clipp"], "model.vision.type"),
        (["model.vision.type=perception_encoder", "model.vision.heads=64"], "multiple of 4 channels"),
        (["model.vision.type=siglip2", "masking.scl_vision_ratio=1.0"], "leaves v1 no patch"),
        (["model.text.type=xlm_roberta", "data.tokenizer=roberta-base"], "data.tokenizer=roberta-base is not"),
        (["data.tokenizer=FacebookAI/xlm-roberta-large"], "model.text.type=roberta"),
    ],
)
def test_settings_of_towers_that_cannot_be_are_sentences(overrides, words):
    with pytest.raises(ConfigError) as fault:
        load_config("configs/quickstart.yaml", overrides)
    assert words in str(fault.value)
