"""The choice of implementations is a value: it depends on configuration and machine, and sets nothing."""

from dataclasses import replace

import pytest

from scl_kernels import get_backend
from sclds.config import EngineConfig, FusionConfig, ModelConfig, TextConfig
from sclds.config.errors import ConfigError
from sclds.machine.implementations import AttentionBackends, Machine, choose_for, this_machine

GPU = Machine(cuda=True, flash_attn=True, torch_varlen=True)
STILL = ModelConfig(text=TextConfig(dropout=0.0), fusion=FusionConfig(dropout=0.0))


@pytest.mark.parametrize(
    ("machine", "precision", "model", "wanted"),
    [
        (GPU, "bf16", ModelConfig(), AttentionBackends("flash_attn", "flash_attn", "flash_attn")),
        (replace(GPU, flash_attn=False), "bf16", ModelConfig(), AttentionBackends("torch_varlen", "sdpa", "sdpa")),
        (replace(GPU, flash_attn=False), "bf16", STILL, AttentionBackends(*["torch_varlen"] * 3)),
        (GPU, "fp32", STILL, AttentionBackends()),
        (replace(GPU, cuda=False), "bf16", STILL, AttentionBackends()),
    ],
)
def test_auto_takes_the_best_backend_of_each_call_site(machine, precision, model, wanted):
    """One dropout must not cost the encoders without it their variable-length kernel."""
    assert choose_for(EngineConfig(precision=precision), model, machine).attention == wanted


@pytest.mark.parametrize("backend", ["flash_attn", "torch_varlen"])
def test_a_backend_that_the_machine_has_can_be_forced(backend):
    """Start-up once judged with the precision of another run, which refused every forced backend on every GPU."""
    assert choose_for(EngineConfig(attention=backend), STILL, GPU).attention == AttentionBackends(*[backend] * 3)


def test_a_backend_that_cannot_be_had_names_what_can():
    with pytest.raises(ConfigError) as fault:
        choose_for(EngineConfig(attention="torch_varlen"), ModelConfig(), GPU)
    (problem,) = fault.value.problems
    assert "engine.attention=torch_varlen cannot be had here with engine.precision=bf16" in problem
    assert "text (attention dropout 0.1) can have flash_attn, sdpa" in problem
    assert "vision" not in problem


@pytest.mark.parametrize(("machine", "kernels"), [(GPU, "triton"), (replace(GPU, cuda=False), "torch")])
def test_kernels_follow_the_device_and_nothing_is_set(machine, kernels):
    before = get_backend()
    assert choose_for(EngineConfig(), ModelConfig(), machine).kernels == kernels
    assert get_backend() == before


def test_a_run_on_the_cpu_of_a_gpu_machine_uses_no_cuda(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    assert not this_machine().cuda
    monkeypatch.setenv("DS_ACCELERATOR", "cuda")
    assert this_machine().cuda
