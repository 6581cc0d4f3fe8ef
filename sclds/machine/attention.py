"""Attention backends: one table of what each computes, which judges for settings, start-up, doctor, choice and errors.

flash-attn 3 and 4 are called by their packages' own functions and not through torch's registry
(`torch.nn.attention.activate_flash_attention_impl`): the registry replaces torch's kernels in the whole process, and
both refuse dropout, so that dense attention with dropout at another call site would fail.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Literal

from sclds.config import ModelConfig

AttentionBackend = Literal["flash_attn_3", "flash_attn_4", "flash_attn", "torch_varlen", "sdpa"]
AttentionSite = Literal["vision", "text", "fusion_self", "fusion_cross"]


@dataclass(frozen=True)
class Capabilities:
    """What a backend computes, forward and backward."""

    library: str
    """What it comes with, as messages call it."""
    dropout: bool = False
    """Whether it drops attention weights."""
    packed: bool = False
    """Whether it takes queries, keys and values in one tensor and gives their gradients in one: without a copy."""
    precisions: tuple[str, ...] = ("bf16",)
    """Values of `engine.precision`."""
    oldest: int = 8
    """Smallest major compute capability of a CUDA device; 0 also runs on the CPU."""
    newest: int | None = None
    """Largest, None for all that come after."""
    head_sizes: tuple[int, int] = (8, 256)
    """Channels of a head: in multiples of, at most; 0 at most is any."""


BACKENDS: Mapping[AttentionBackend, Capabilities] = MappingProxyType(
    {
        # hopper/flash_attn_interface.py and hopper/flash_api.cpp; torch/nn/attention/_fa3.py admits 9.0 only
        "flash_attn_3": Capabilities("flash-attn 3", oldest=9, newest=9),
        # flash_attn/cute/interface.py 4.0.0b36: half types, multiples of 8; heads over 128 on 9.x only
        "flash_attn_4": Capabilities("flash-attn 4", oldest=9, newest=10, head_sizes=(8, 128)),
        # flash_attn/flash_attn_interface.py 2.8.3 pads heads to multiples of 8
        "flash_attn": Capabilities("flash-attn", dropout=True, packed=True, head_sizes=(1, 256)),
        # torch/nn/attention/varlen.py 2.13: dropout_p is 0 in the call
        "torch_varlen": Capabilities("torch.nn.attention.varlen"),
        "sdpa": Capabilities("torch", dropout=True, precisions=("bf16", "fp32"), oldest=0, head_sizes=(1, 0)),
    }
)
"""In the order of preference. All take segments without queries, whose keys get no gradient, and empty ones.

The variable-length kernels skip tiles of no queries in forward and store zeros for their keys in backward: flash-attn
2 and torch `flash_bwd_kernel.h`, flash-attn 3 `mainloop_bwd_*`, 4 `flash_bwd_sm90.py` and `flash_bwd_sm100.py`. A
segment of queries without keys is refused when it is planned.
"""


@dataclass(frozen=True)
class Machine:
    """What the choice depends on beside the configuration."""

    cuda: bool
    """Whether a run here computes on CUDA."""
    capability: tuple[int, int] = (0, 0)
    """Compute capability of its devices, the lowest of them; (0, 0) on the CPU."""
    installed: frozenset[AttentionBackend] = frozenset({"sdpa"})
    """Backends whose library is there."""


@dataclass(frozen=True)
class CallSite:
    """What a place that attends asks of a backend."""

    precision: str = "bf16"
    """`engine.precision`."""
    dropout: float = 0.0
    """Probability of dropping an attention weight in training."""
    head_size: int = 64
    """Channels of a head."""


@dataclass(frozen=True)
class AttentionBackends:
    """The backend of each call site."""

    vision: AttentionBackend = "sdpa"
    text: AttentionBackend = "sdpa"
    fusion_self: AttentionBackend = "sdpa"
    fusion_cross: AttentionBackend = "sdpa"

    @classmethod
    def all(cls, backend: AttentionBackend) -> "AttentionBackends":
        """Return one backend for all sites."""
        return cls(**{site.name: backend for site in fields(cls)})

    def __str__(self) -> str:
        """Return one name where all sites agree, else one per site."""
        sites = {site.name: getattr(self, site.name) for site in fields(self)}
        return self.vision if len(set(sites.values())) == 1 else ", ".join(f"{s} {b}" for s, b in sites.items())


def call_sites(model: ModelConfig, precision: str) -> dict[AttentionSite, CallSite]:
    """Return the places that attend; vision towers have no dropout."""
    vision, text, fusion = model.vision, model.text, model.fusion
    fused = CallSite(precision, fusion.dropout_of_attention, fusion.width // fusion.heads)
    return {
        "vision": CallSite(precision, 0.0, vision.width // vision.heads),
        "text": CallSite(precision, text.dropout_of_attention, text.width // text.heads),
        "fusion_self": fused,
        "fusion_cross": fused,
    }


def obstacle(backend: AttentionBackend, site: CallSite, machine: Machine) -> str | None:
    """Return why a call site cannot have a backend here, as a clause; None if it can. The only judge."""
    has, major = BACKENDS[backend], machine.capability[0]
    multiple, largest = has.head_sizes
    if backend not in machine.installed:
        return f"{has.library} is not installed"
    if has.oldest and not machine.cuda:
        return "it needs a CUDA device, and a run here computes on the CPU"
    if machine.cuda and not has.oldest <= major <= (has.newest or major):
        end = " or newer" if has.newest is None else "" if has.newest == has.oldest else f" to {has.newest}.x"
        found = ".".join(map(str, machine.capability))
        return f"it needs compute capability {has.oldest}.x{end}, and this device has {found}"
    if site.precision not in has.precisions:
        return f"it computes in {' and '.join(has.precisions)}, and engine.precision={site.precision}"
    if site.dropout and not has.dropout:
        return f"it has no dropout, and attention_dropout is {site.dropout:g}"
    if site.head_size % multiple or (largest and site.head_size > largest):
        return f"it takes heads of up to {largest} channels in steps of {multiple}, and these have {site.head_size}"
    return None


def available(site: CallSite, machine: Machine) -> tuple[AttentionBackend, ...]:
    """Return the backends that a call site can have, best first; never none, since sdpa can always be had."""
    return tuple(name for name in BACKENDS if obstacle(name, site, machine) is None)


def attention_problems(
    setting: AttentionBackend, sites: Mapping[AttentionSite, CallSite], machine: Machine
) -> list[str]:
    """Return a sentence where a backend that was asked for cannot be had: why, and what can, with what speaks against
    the others.
    """
    alike: dict[str, list[str]] = {}  # sites by what is said of them, so that it is said once
    for site, wanted in sites.items():
        why = obstacle(setting, wanted, machine)
        if why is None:
            continue
        against = {name: obstacle(name, wanted, machine) for name in BACKENDS if name != setting}
        others = "; ".join(f"{name}: {reason}" for name, reason in against.items() if reason is not None)
        able = ", ".join(available(wanted, machine))
        alike.setdefault(f"{why}. There it can be {able}{f' ({others})' if others else ''}", []).append(site)
    if not alike:
        return []
    clauses = [f"for {', '.join(names)}: {said}" for said, names in alike.items()]
    return [
        f"engine.attention={setting} cannot be had here {'; '.join(clauses)}. engine.attention=auto takes the best for "
        f"each"
    ]
