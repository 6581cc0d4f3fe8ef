"""What a base-size step moves beside its matrix products, with the fused kernels: counted on tensors without data."""

import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from scl_kernels.backend import get_backend, set_backend
from sclds.batch import Recipe, SampleViews, pack
from sclds.batch.views import grids_of
from sclds.config.reading import load_config
from sclds.costs.traffic import ByteCounter
from sclds.losses.communicator import SingleProcess
from sclds.losses.objectives import FeatureGather, StepSizes, step_loss
from sclds.machine.attention import AttentionBackends
from sclds.model.scl import SCLModel

BASE = Path(__file__).parents[2] / "configs" / "pretrain" / "scl_base_image.yaml"
IMAGES, TOKENS, WORDS = 64, 12, 50265
MOST = 75e9
"""Bytes of a micro-batch; the same step without fused kernels moves 109e9 (with PyTorch's own dropout)."""


class _Attention(torch.autograd.Function):
    """Takes and gives tensors of the right shapes."""

    @staticmethod
    def forward(ctx, *rows):
        ctx.save_for_backward(*rows)
        return rows[0].new_empty(rows[0].shape[0], *rows[0].shape[-2:])

    @staticmethod
    def backward(ctx, gradient):
        return tuple(torch.empty_like(rows) for rows in ctx.saved_tensors)


@pytest.fixture
def flash_attention(monkeypatch):
    module = ModuleType("flash_attn")
    module.flash_attn_varlen_func = lambda q, k, v, *segments, **more: _Attention.apply(q, k, v)
    module.flash_attn_varlen_qkvpacked_func = lambda qkv, *segments, **more: _Attention.apply(qkv)
    module.flash_attn_varlen_kvpacked_func = lambda q, kv, *segments, **more: _Attention.apply(q, kv)
    monkeypatch.setitem(sys.modules, "flash_attn", module)


@pytest.fixture
def kernels():
    before = get_backend()
    set_backend("triton")
    yield
    set_backend(before)


def view_of(config, number):
    rng, grid = np.random.default_rng(number), config.data.image_size // config.model.vision.patch_size
    text = np.concatenate(([0], rng.integers(4, WORDS, TOKENS - 2), [2]))
    hidden, wrong = np.unique(rng.integers(1, TOKENS - 1, 5)), number % 2
    return SampleViews(
        dropout_key=number,
        sample_id=str(number),
        caption=str(number),
        kind="image",
        frames=1,
        grid=grid,
        text=text,
        text_mlm=text,
        mlm_positions=hidden[:2],
        mlm_labels=text[hidden[:2]],
        text_scl=text,
        scl_positions=hidden,
        keep=np.arange(grid**2 // 5),
        itm_partner=(number + wrong) % IMAGES,
        itm_label=1 - wrong,
    )


def test_a_base_step_moves_at_most_its_budget(flash_attention, kernels):
    config = load_config(BASE)
    views = [view_of(config, number) for number in range(IMAGES)]
    attention = AttentionBackends.all("flash_attn")
    recipe = Recipe(1, config.losses, grids_of(config), IMAGES, config.model.fusion.layers, attention)
    patches = torch.empty(IMAGES * views[0].grid ** 2, 3 * config.model.vision.patch_size**2, device="meta")
    batch = pack(views, patches, recipe).to(torch.device("meta"), torch.bfloat16)
    with torch.device("meta"):
        model = SCLModel(config.model, WORDS).to(torch.bfloat16).train()
    assert model.text_encoder.layers[0].mlp_norm.dropout == 0.1
    sizes = StepSizes.gather([batch], SingleProcess())
    with ByteCounter() as counted:
        gather = FeatureGather(config.losses, SingleProcess(), sizes)
        send = partial(gather.send, 0, batch)
        outputs = model(batch, send)
        send(outputs)
        loss, _ = step_loss(outputs, batch, gather.wait(), 0, config.losses)
        loss.backward()
    assert counted.launches["scl_kernels::dropout_add_norm"] == 11 + 2 * 12 + 2 * 3 * 6
    assert counted.launches["scl_kernels::bias_activation"] == 11 + 12 + 2 * 6
    assert 40e9 < counted.total <= MOST, counted.by_operator.most_common(12)


def test_operators_are_counted_by_what_they_read_and_write():
    a, b = (torch.empty(3, 5, device="meta") for _ in range(2))
    one = 3 * 5 * 4
    for function, expected in {
        "addition": (lambda: a + b, 3 * one),
        "in place": (lambda: a.mul_(2), 2 * one),
        "view": (lambda: a.view(5, 3).T, 0),
        "product": (lambda: a @ b.T, 0),
        "gather": (lambda: a[torch.zeros(2, dtype=torch.int64, device="meta")], 2 * 2 * 5 * 4 + 2 * 8),
    }.values():
        with ByteCounter() as counted:
            function()
        assert abs(counted.total - expected) <= 16
    with ByteCounter() as counted:
        torch.empty(100, device="meta")
    assert counted.total == 0
