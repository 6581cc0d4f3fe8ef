"""bf16 on a device: all but attention is the CPU's bit for bit, and neither is further from fp32 than rounding goes.

Attention differs because the CPU multiplies it out (`sclds.model.attention._dense_attention`): it rounds scores, which
fused attention keeps in fp32.
"""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from sclds.config import LossesConfig, ScheduleConfig
from sclds.model import attention
from tests.device.checks import stepped
from tests.device.pretend import moved, pretend_device
from tests.model.samples import ALL, model_of, pack_samples
from tests.model.test_step import MIXED

CPU = torch.device("cpu")
ROUNDING = 2**-8
"""Between neighboring numbers of bf16, relative to them."""
COSINES_BY = {
    "contrastive": 0.25,
    **dict.fromkeys(("mvsc", "mlsc", "mltc_text", "mltc_image"), LossesConfig().completion_temperature),
}
"""Temperature that cosines are divided by; that of the contrastive loss is `model_of`'s."""


def weights(seed):
    """Return weights of a model, as bf16 has them."""
    model = model_of()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator).double())
    return {name: value.bfloat16() for name, value in model.state_dict().items()}


def step_of(state, precision, device, place=lambda model: model):
    """Return losses and gradients of a step of `train_step`."""
    model = model_of()
    model.load_state_dict(state)
    model.to({"bf16": torch.bfloat16, "fp32": torch.float32}[precision])
    engine = SimpleNamespace(precision=precision)
    config = SimpleNamespace(seed=0, task=None, losses=ALL, schedule=ScheduleConfig(steps=9), engine=engine)
    return stepped(place(model), [pack_samples(MIXED, ALL).in_one_block()], config, device)


def test_bf16_is_the_cpus_bit_for_bit_where_attention_is(monkeypatch):
    """The CPU multiplies bf16 attention out, which is faster there; with one way of computing it nothing differs."""

    def alike(q, k, v, mask, dropout):
        with sdpa_kernel(SDPBackend.MATH):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)

    monkeypatch.setattr(attention, "_dense_attention", alike)
    state = weights(0)
    expected = step_of(state, "bf16", CPU)
    with pretend_device() as device:
        found = step_of(state, "bf16", device, moved)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        assert [name for name, value in other.items() if not torch.equal(one[name], value)] == []


@pytest.mark.parametrize("seed", [1, 2])
def test_both_are_as_far_from_fp32_as_rounding_goes(seed):
    """A loss of cosines is between two logits, the right one and the sum of all, and each is a cosine by temperature.

    So two roundings of a cosine, by temperature, are what it may move by, and a rounding of its own what another may.
    """
    state = weights(seed)
    exact, _ = step_of(state, "fp32", CPU)
    with pretend_device() as device:
        both = {"CPU": step_of(state, "bf16", CPU)[0], "device": step_of(state, "bf16", device, moved)[0]}
    for where, found in both.items():
        for name, value in exact.items():
            if name != "total" and not name.endswith("accuracy"):
                most = 2 * ROUNDING / COSINES_BY[name] if name in COSINES_BY else ROUNDING * max(float(value), 1.0)
                assert abs(float(found[name] - value)) <= most, f"{name} on the {where}"
