"""Whose kernels, LayerNorm and attention a run uses: chosen once, as a value, by a pure function.

`choose` depends on the configuration and on what the machine has, and sets nothing; start-up, `sclds doctor` and
packing ask it. `use` sets the process-wide part of a choice, and is called in one place of a run. Attention is carried
by the plans of a batch, one backend per call site.
"""

import importlib.util
import os
from dataclasses import dataclass
from typing import Literal

import torch

from scl_kernels.backend import interpreting, set_backend
from scl_kernels.norms import Norms, norms_problem, set_norms
from scl_kernels.optional import library
from sclds.config import Config, EngineConfig, ModelConfig
from sclds.config.errors import ConfigError
from sclds.machine.attention import (
    AttentionBackend,
    AttentionBackends,
    Machine,
    attention_problems,
    available,
    call_sites,
)


@dataclass(frozen=True)
class Implementations:
    """What a run uses."""

    kernels: Literal["triton", "torch"]
    """Our kernels, or their PyTorch references; `auto` may still leave small sizes to the references."""
    kernels_setting: Literal["auto", "triton", "torch"]
    norms: Norms
    attention: AttentionBackends


def this_machine() -> Machine:
    """Look at the machine and the environment of this process."""
    cuda = torch.cuda.is_available() and os.environ.get("DS_ACCELERATOR", "cuda") == "cuda"
    found: dict[AttentionBackend, bool] = {
        "flash_attn_3": library("flash-attn 3").present,
        "flash_attn_4": library("flash-attn 4").present,
        "flash_attn": library("flash-attn").present,
        "torch_varlen": importlib.util.find_spec("torch.nn.attention.varlen") is not None,
        "sdpa": True,
    }
    capabilities = [torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())] if cuda else []
    return Machine(
        cuda, min(capabilities, default=(0, 0)), frozenset(name for name, present in found.items() if present)
    )


def implementation_problems(engine: EngineConfig, model: ModelConfig, machine: Machine) -> list[str]:
    """Return a sentence for every choice of `engine` that cannot be had here."""
    problems = []
    if engine.kernels == "triton" and not machine.cuda and not interpreting():
        problems.append("engine.kernels=triton needs a CUDA device, and a run here computes on the CPU; use auto")
    norms = norms_problem(engine.norms)
    if norms:
        problems.append(f"engine.{norms}")
    if engine.attention != "auto":
        problems += attention_problems(engine.attention, call_sites(model, engine.precision), machine)
    return problems


def choose(config: Config, machine: Machine | None = None) -> Implementations:
    """Return what a run of `config` uses; nothing is set.

    Args:
        config: The run.
        machine: Where; by default this one.

    Raises:
        ConfigError: A choice cannot be had there.
    """
    return choose_for(config.engine, config.model, machine)


def choose_for(engine: EngineConfig, model: ModelConfig, machine: Machine | None = None) -> Implementations:
    """Return what these two sections of a configuration ask for, see `choose`."""
    machine = machine or this_machine()
    problems = implementation_problems(engine, model, machine)
    if problems:
        raise ConfigError(problems)
    sites = {
        site: available(wanted, machine)[0] if engine.attention == "auto" else engine.attention
        for site, wanted in call_sites(model, engine.precision).items()
    }
    device = torch.device("cuda") if machine.cuda else torch.device("cpu")
    return Implementations(
        kernels=_kernels(engine.kernels, device),
        kernels_setting=engine.kernels,
        norms=engine.norms,
        attention=AttentionBackends(**sites),
    )


def _kernels(setting: Literal["auto", "triton", "torch"], device: torch.device) -> Literal["triton", "torch"]:
    if setting == "auto":
        return "triton" if device.type == "cuda" else "torch"
    return setting


def compute_dtype(config: Config) -> torch.dtype:
    """Return the type that the model computes in."""
    return torch.bfloat16 if config.engine.precision == "bf16" else torch.float32


def use(implementations: Implementations) -> None:
    """Set the kernels and the LayerNorm of this process."""
    set_backend(implementations.kernels_setting)
    set_norms(implementations.norms)
