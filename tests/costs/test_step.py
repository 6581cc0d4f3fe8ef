"""Every figure of `step_counts` beside what the step does: counted on tensors without data, or measured on CPU."""

from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from sclds.batch.split import Split, split_batch
from sclds.benchmarks.engine import BASE_DEPTH
from sclds.benchmarks.engine_worker import configuration
from sclds.config.reading import load_config
from sclds.costs import host
from sclds.costs.activations import activation_bytes
from sclds.costs.counts import attention_forward, packed_forward
from sclds.costs.layers import micro_batch_work
from sclds.costs.operators import Counted
from sclds.costs.rows import micro_batch_rows
from sclds.costs.step import samples_by_kind, step_counts, step_flops
from sclds.costs.tensors import parameter_tensors
from sclds.model.scl import SCLModel
from tests.costs.measured import VOCABULARY, measured, packed, run

PRETRAIN = Path(__file__).parents[2] / "configs" / "pretrain"
TOKENS = 12
FEW_LAYERS = ("model.vision.layers=2", "model.text.layers=2", "model.fusion.layers=3")
IMAGES, VIDEOS = ["image"] * 64, ["video"] * 16
CASES = {
    "base, images": ((), IMAGES, True),
    "base, videos": ((), VIDEOS, True),
    "without our kernels": (FEW_LAYERS, IMAGES, False),
    "fp32": (("engine.precision=fp32", *FEW_LAYERS), IMAGES, True),
    "images beside videos": (FEW_LAYERS, ["image"] * 16 + VIDEOS, True),
    "economy": (("losses.mlm_view=t2", *FEW_LAYERS), IMAGES, True),
    "contrastive alone": (tuple(f"losses.{n}=0" for n in ("mlm", "itm", "mvsc", "mlsc")) + FEW_LAYERS, IMAGES, True),
    "sigmoid alone": (
        ("losses.sigmoid=1", *(f"losses.{n}=0" for n in ("mlm", "itm", "mvsc", "mlsc", "contrastive")), *FEW_LAYERS),
        IMAGES,
        True,
    ),
    "matching alone": (
        tuple(f"losses.{n}=0" for n in ("mlm", "contrastive", "mvsc", "mlsc")) + FEW_LAYERS,
        IMAGES,
        True,
    ),
    "local completion": (("losses.mltc_image=0.2", "losses.mltc_text=0.2", *FEW_LAYERS), IMAGES, True),
    "duplicates": (("losses.duplicates=ignore", *FEW_LAYERS), IMAGES, True),
    "no dropout": (("model.text.dropout=0", "model.fusion.dropout=0", *FEW_LAYERS), IMAGES, True),
    "one fusion layer": (("model.vision.layers=2", "model.text.layers=2", "model.fusion.layers=1"), IMAGES, True),
    "perception encoder": (("model.vision.type=perception_encoder", *FEW_LAYERS), IMAGES, True),
    "siglip2, videos": (("model.vision.type=siglip2", *FEW_LAYERS), VIDEOS, True),
}


def counted(config, kinds, fused=True):
    """Return launches and bytes of either pass, and what is kept, by the formulas."""
    value = 2 if config.engine.precision == "bf16" else 4
    rows = micro_batch_rows(config, Counter(kinds), TOKENS)
    parts = micro_batch_work(Counted(config, rows, VOCABULARY, value, fused)).values()
    works = [work for part in parts for work in part.works]
    passes = [
        tuple(sum(getattr(getattr(work, name), what) for work in works) for what in ("launches", "bytes"))
        for name in ("forward", "backward")
    ]
    return passes, sum(part.kept() for part in parts)


@pytest.mark.parametrize("name", CASES)
def test_launches_bytes_and_what_is_kept_are_those_of_a_real_micro_batch(name):
    overrides, kinds, fused = CASES[name]
    config = load_config(PRETRAIN / "scl_base_image.yaml", list(overrides))
    dtype = torch.bfloat16 if config.engine.precision == "bf16" else torch.float32
    real = measured(config, kinds, TOKENS, fused, dtype)
    passes, kept = counted(config, kinds, fused)
    for ours, theirs in zip(passes, real["passes"], strict=True):
        assert ours == pytest.approx(theirs, rel=0.05)
    assert sum(ours[1] for ours in passes) == pytest.approx(
        sum(real_bytes for _, real_bytes in real["passes"]), rel=0.02
    )
    assert kept == pytest.approx(real["kept"], rel=0.01)


@pytest.mark.parametrize(("kind", "samples"), [("image", 16), ("video", 4)])
def test_flops_at_base_size_are_those_of_torchs_counter(kind, samples):
    """On tensors without data attention is products, whose backward does not compute the scores again."""
    config = load_config(PRETRAIN / "scl_base_image.yaml")
    batch = packed(config, [kind] * samples, TOKENS, "sdpa")
    with torch.device("meta"):
        model = SCLModel(config.model, VOCABULARY).to(torch.bfloat16)
    with FlopCounterMode(display=False) as forward:
        steps = run(model, batch, config.losses)
        next(steps)
    with FlopCounterMode(display=False) as backward:
        next(steps, None)
    once = samples * sum(packed_forward(config, kind, TOKENS, VOCABULARY).values())
    scores = samples * sum(attention_forward(config, kind, TOKENS).values()) // 2
    step = sum(step_flops(config, {kind: samples}, TOKENS, VOCABULARY, 1).values())
    assert forward.get_total_flops() == pytest.approx(once, rel=0.01)
    assert backward.get_total_flops() == pytest.approx(step - once - scores, rel=0.01)


def small(width, layers, size, *overrides):
    """Return a model of few layers in fp32, without dropout, on images of a size."""
    sizes = [
        f"model.{part}.{name}={value}"
        for part, count in zip(("vision", "text", "fusion"), layers, strict=True)
        for name, value in (("width", width), ("layers", count), ("heads", width // 32))
    ]
    images = ("data.image_size", "data.video_size", "model.vision.pretrained_image_size")
    rest = ["model.projection=32", "model.text.dropout=0", "model.fusion.dropout=0", "engine.precision=fp32"]
    return load_config(
        PRETRAIN / "scl_base_image.yaml", [*sizes, *(f"{key}={size}" for key in images), *rest, *overrides]
    )


class NoModules(nullcontext):
    """Stands in for the counter's tracker of modules: all FLOPs belong to the whole."""

    parents = frozenset(("Global",))


SIZES = {"64": (64, (2, 2, 3), 96), "64, deep": (64, (4, 4, 4), 128), "96, large images": (96, (2, 2, 2), 144)}
WORDS = 1000


def on_cpu(config, samples):
    """Return the steps of a micro-batch of images on CPU, and the model."""
    batch = packed(config, ["image"] * samples, TOKENS, "sdpa", torch.device("cpu"), torch.float32)
    model = SCLModel(config.model, WORDS, config.engine.activation_checkpointing).train()
    model.initialize(0)
    return run(model, batch, config.losses)


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("recompute", [False, True])
def test_flops_of_a_small_step_on_cpu(name, recompute):
    """With torch's own formulas for the fused attention of a CPU, which its counter does not know."""
    config = small(*SIZES[name], f"engine.activation_checkpointing={recompute}")
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu

    def forward(q, k, v, *args, out_shape=None, **kwargs):
        return sdpa_flop_count(q, k, v)

    def backward(gradient, q, k, v, *args, out_shape=None, **kwargs):
        return sdpa_backward_flop_count(gradient, q, k, v)

    formulas = {attention: forward, torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: backward}
    steps = on_cpu(config, 4)
    products = FlopCounterMode(display=False, custom_mapping=formulas)
    products.mod_tracker = NoModules()  # the real one hooks into modules, which checkpointing runs without a graph
    with products:
        for _ in steps:
            pass
    found = sum(step_flops(config, {"image": 4}, TOKENS, WORDS, 1).values())
    assert found == pytest.approx(products.get_total_flops(), rel=0.01)


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("recompute", [False, True])
def test_activations_are_the_measured_peak_of_memory(name, recompute):
    config = small(*SIZES[name], f"engine.activation_checkpointing={recompute}")
    steps = on_cpu(config, 16)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as memory:
        for _ in steps:
            pass
    now = peak = 0
    for event in memory.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    found = activation_bytes(config, 16, "image", TOKENS, WORDS, fused=False)
    assert sum(found.values()) == pytest.approx(peak, rel=0.1)


def test_a_step_is_its_micro_batches_and_what_it_computes_twice():
    config = load_config(PRETRAIN / "scl_base_image.yaml")
    once = step_counts(config, Split(64, 1, 64), text_tokens=TOKENS, vocabulary=VOCABULARY)
    forward = 64 * sum(packed_forward(config, "image", TOKENS, VOCABULARY).values())
    assert 3 * forward < sum(once.flops.values()) < 3.05 * forward
    twice = step_counts(config, Split(32, 2, 64), text_tokens=TOKENS, vocabulary=VOCABULARY)
    assert sum(twice.flops.values()) - sum(once.flops.values()) == pytest.approx(forward, rel=0.001)
    assert twice.launches["forward"] == 4 * once.launches["forward"]
    assert twice.launches["backward"] == 2 * once.launches["backward"]
    assert sum(twice.activations.values()) == pytest.approx(sum(once.activations.values()) / 2, rel=0.01)
    assert twice.host_seconds > 2 * once.host_seconds
    again = config.model_copy(update={"engine": config.engine.model_copy(update={"activation_checkpointing": True})})
    recomputed = step_counts(again, Split(64, 1, 64), text_tokens=TOKENS, vocabulary=VOCABULARY)
    assert sum(recomputed.flops.values()) - sum(once.flops.values()) == pytest.approx(forward, rel=0.01)
    assert sum(recomputed.activations.values()) < 0.35 * sum(once.activations.values())
    assert 0.5 * once.launches["forward"] < recomputed.launches["recomputed"] < once.launches["forward"]


def test_a_mix_of_kinds_is_divided_by_shares():
    assert samples_by_kind({"image": 0.6, "video": 0.4}, 32) == {"image": 19, "video": 13}
    assert samples_by_kind({"image": 0.5, "video": 0.5}, 1) == {"image": 0, "video": 1}
    config = load_config(PRETRAIN / "scl_base_mixed.yaml")
    found = step_counts(config, split_batch(config.batch, 64), text_tokens=TOKENS, vocabulary=VOCABULARY)
    assert sum(found.flops.values()) > 0


def test_the_hosts_time_is_that_of_the_benchmark_of_the_engine():
    """Forward and backward of stage 3 took 165 ms there, of which 89 were launches."""
    config = configuration(BASE_DEPTH, 3, 1)
    tensors, modules = len(parameter_tensors(config, 200)), host.hooked(config, 200)
    assert (tensors, modules) == (93, 48)
    assert host.host_seconds(2726, 0, 0, 0) == pytest.approx(0.089, rel=0.02)
    assert host.host_seconds(2726, tensors, 2 * modules, 0) == pytest.approx(0.165, rel=0.02)
    assert host.host_seconds(0, 0, 0, 10) == 10 * host.MESSAGE
