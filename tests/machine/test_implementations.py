"""The choice of implementations is a value: it depends on configuration and machine, and sets nothing."""

from dataclasses import replace

import pytest

from scl_kernels import get_backend
from sclds.config import EngineConfig, FusionConfig, ModelConfig, TextConfig, VisionConfig
from sclds.config.errors import ConfigError
from sclds.machine.attention import BACKENDS, AttentionBackends, CallSite, Machine, available, obstacle
from sclds.machine.implementations import choose_for, this_machine

HOPPER = Machine(cuda=True, capability=(9, 0), installed=frozenset(BACKENDS))
AMPERE, BLACKWELL, TURING = (replace(HOPPER, capability=found) for found in ((8, 0), (10, 0), (7, 5)))
CPU = Machine(cuda=False, installed=frozenset(BACKENDS))
STILL = ModelConfig(text=TextConfig(attention_dropout=0.0), fusion=FusionConfig(attention_dropout=0.0))


def without(machine, *backends):
    return replace(machine, installed=machine.installed - set(backends))


@pytest.mark.parametrize(
    ("machine", "precision", "model", "wanted"),
    [
        (HOPPER, "bf16", ModelConfig(), ("flash_attn_3", "flash_attn", "flash_attn", "flash_attn")),
        (HOPPER, "bf16", STILL, ("flash_attn_3",) * 4),
        (BLACKWELL, "bf16", STILL, ("flash_attn_4",) * 4),
        (AMPERE, "bf16", STILL, ("flash_attn",) * 4),
        (without(AMPERE, "flash_attn"), "bf16", ModelConfig(), ("torch_varlen", "sdpa", "sdpa", "sdpa")),
        (without(AMPERE, "flash_attn"), "bf16", STILL, ("torch_varlen",) * 4),
        (
            HOPPER,
            "bf16",
            ModelConfig(text=TextConfig(attention_dropout=0.0)),
            ("flash_attn_3", "flash_attn_3", "flash_attn", "flash_attn"),
        ),
        (HOPPER, "bf16", ModelConfig(vision=VisionConfig(width=768, heads=2)), ("sdpa", *["flash_attn"] * 3)),
        (HOPPER, "bf16", ModelConfig(vision=VisionConfig(width=396, heads=11)), ("flash_attn",) * 4),
        (BLACKWELL, "bf16", ModelConfig(vision=VisionConfig(width=768, heads=4)), ("flash_attn",) * 4),
        (TURING, "bf16", STILL, ("sdpa",) * 4),
        (HOPPER, "fp32", STILL, ("sdpa",) * 4),
        (CPU, "bf16", STILL, ("sdpa",) * 4),
    ],
)
def test_auto_takes_the_best_backend_of_each_call_site(machine, precision, model, wanted):
    """One dropout must not cost the encoders without it their variable-length kernel."""
    assert choose_for(EngineConfig(precision=precision), model, machine).attention == AttentionBackends(*wanted)


@pytest.mark.parametrize(
    ("backend", "site", "machine", "why"),
    [
        ("flash_attn_3", CallSite(), without(HOPPER, "flash_attn_3"), "flash-attn 3 is not installed"),
        ("torch_varlen", CallSite(), CPU, "it needs a CUDA device, and a run here computes on the CPU"),
        ("flash_attn_3", CallSite(), AMPERE, "it needs compute capability 9.x, and this device has 8.0"),
        ("flash_attn_4", CallSite(), AMPERE, "it needs compute capability 9.x to 10.x, and this device has 8.0"),
        ("flash_attn", CallSite(), TURING, "it needs compute capability 8.x or newer, and this device has 7.5"),
        ("flash_attn", CallSite("fp32"), HOPPER, "it computes in bf16, and engine.precision=fp32"),
        ("flash_attn_4", CallSite(dropout=0.1), HOPPER, "it has no dropout, and attention_dropout is 0.1"),
        (
            "torch_varlen",
            CallSite(head_size=36),
            HOPPER,
            "it takes heads of up to 256 channels in steps of 8, and these have 36",
        ),
        (
            "flash_attn_4",
            CallSite(head_size=192),
            HOPPER,
            "it takes heads of up to 128 channels in steps of 8, and these have 192",
        ),
    ],
)
def test_what_keeps_a_backend_from_a_call_site_is_said(backend, site, machine, why):
    assert obstacle(backend, site, machine) == why
    assert backend not in available(site, machine)


@pytest.mark.parametrize("machine", [HOPPER, AMPERE, BLACKWELL, TURING, CPU])
@pytest.mark.parametrize("site", [CallSite(), CallSite("fp32", 0.5, 7), CallSite("bf16", 0.1, 512)])
def test_every_call_site_can_have_something(machine, site):
    assert available(site, machine)[-1] == "sdpa"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backend_that_the_machine_has_can_be_forced(backend):
    """Start-up once judged with the precision of another run, which refused every forced backend on every GPU."""
    assert choose_for(EngineConfig(attention=backend), STILL, HOPPER).attention == AttentionBackends.all(backend)


def test_every_backend_is_a_setting():
    assert {*EngineConfig.model_fields["attention"].annotation.__args__} == {"auto", *BACKENDS}


def test_a_backend_that_cannot_be_had_names_what_can_and_why_not_the_others():
    with pytest.raises(ConfigError) as fault:
        choose_for(EngineConfig(attention="torch_varlen"), ModelConfig(), without(AMPERE, "flash_attn_3"))
    (problem,) = fault.value.problems
    assert problem == (
        "engine.attention=torch_varlen cannot be had here for text, fusion_self, fusion_cross: it has no dropout, and "
        "attention_dropout is 0.1. There it can be flash_attn, sdpa (flash_attn_3: flash-attn 3 is not installed; "
        "flash_attn_4: it needs compute capability 9.x to 10.x, and this device has 8.0). engine.attention=auto takes "
        "the best for each"
    )


@pytest.mark.parametrize(("machine", "kernels"), [(HOPPER, "triton"), (CPU, "torch")])
def test_kernels_follow_the_device_and_nothing_is_set(machine, kernels):
    before = get_backend()
    assert choose_for(EngineConfig(), ModelConfig(), machine).kernels == kernels
    assert get_backend() == before


def test_a_run_on_the_cpu_of_a_gpu_machine_uses_no_cuda(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: [(9, 0), (8, 0)][device])
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    assert not this_machine().cuda
    monkeypatch.setenv("DS_ACCELERATOR", "cuda")
    assert this_machine().cuda
    assert this_machine().capability == (8, 0), "what the weakest device takes, all take"
