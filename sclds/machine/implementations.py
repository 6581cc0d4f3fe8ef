"""Whose kernels, LayerNorm and attention a run uses: chosen once, as a value, by a pure function.

`choose` depends on the configuration and on what the machine has, and sets nothing; start-up, `sclds doctor` and
packing ask it. `use` sets the process-wide part of a choice, and is called in one place of a run. Attention is carried
by the plans of a batch, one backend per call site.
"""

import importlib.util
import os
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from scl_kernels.backend import interpreting, set_backend
from scl_kernels.norms import Norms, norms_problem, set_norms
from scl_kernels.optional import library
from sclds.config import Config, EngineConfig, ModelConfig
from sclds.config.errors import ConfigError

AttentionBackend = Literal["flash_attn", "torch_varlen", "sdpa"]
"""In the order of preference."""
_TAKES_DROPOUT = ("flash_attn", "sdpa")


@dataclass(frozen=True)
class Machine:
    """What the choice depends on beside the configuration."""

    cuda: bool
    """Whether a run here computes on CUDA."""
    flash_attn: bool = False
    """Whether flash-attn 2 with its variable-length functions is installed."""
    torch_varlen: bool = False
    """Whether this torch has variable-length attention."""


@dataclass(frozen=True)
class AttentionBackends:
    """The backend of each call site."""

    vision: AttentionBackend = "sdpa"
    text: AttentionBackend = "sdpa"
    fusion: AttentionBackend = "sdpa"

    def __str__(self) -> str:
        """Return one name where all sites agree, else one per site."""
        sites = {site: getattr(self, site) for site in ("vision", "text", "fusion")}
        return self.vision if len(set(sites.values())) == 1 else ", ".join(f"{s} {b}" for s, b in sites.items())


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
    return Machine(
        cuda=cuda,
        flash_attn=library("flash-attn").present,
        torch_varlen=importlib.util.find_spec("torch.nn.attention.varlen") is not None,
    )


def available_attention(machine: Machine, precision: str, dropout: float) -> tuple[AttentionBackend, ...]:
    """Return the backends that can run a call site, best first.

    Args:
        machine: Where.
        precision: `bf16` or `fp32`; both variable-length kernels take half types only.
        dropout: Dropout of attention weights, which torch's variable-length kernel lacks.
    """
    fits = machine.cuda and precision == "bf16"
    has = {"flash_attn": fits and machine.flash_attn, "torch_varlen": fits and machine.torch_varlen, "sdpa": True}
    return tuple(name for name in get_args(AttentionBackend) if has[name] and (dropout == 0 or name in _TAKES_DROPOUT))


def attention_dropout(model: ModelConfig) -> dict[str, float]:
    """Return the dropout of attention weights by call site."""
    return {"vision": 0.0, "text": model.text.dropout, "fusion": model.fusion.dropout}


def implementation_problems(engine: EngineConfig, model: ModelConfig, machine: Machine) -> list[str]:
    """Return a sentence for every choice of `engine` that cannot be had here."""
    problems = []
    if engine.kernels == "triton" and not machine.cuda and not interpreting():
        problems.append("engine.kernels=triton needs a CUDA device, and a run here computes on the CPU; use auto")
    norms = norms_problem(engine.norms)
    if norms:
        problems.append(f"engine.{norms}")
    lacking = [
        f"{site} (attention dropout {dropout:g}) can have {', '.join(found)}"
        for site, dropout in attention_dropout(model).items()
        if engine.attention not in ("auto", *(found := available_attention(machine, engine.precision, dropout)))
    ]
    if lacking:
        problems.append(
            f"engine.attention={engine.attention} cannot be had here with engine.precision={engine.precision}: "
            f"{'; '.join(lacking)}; engine.attention=auto takes the best for each"
        )
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
    sites: dict[str, AttentionBackend] = {}
    for site, dropout in attention_dropout(model).items():
        forced = engine.attention
        sites[site] = forced if forced != "auto" else available_attention(machine, engine.precision, dropout)[0]
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
