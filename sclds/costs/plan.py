"""What a configuration costs on a cluster, computed before any GPU-hour is spent.

FLOPs and parameters are counted exactly; bytes of sharded state and on the wire follow from DeepSpeed's partitioning;
activations, speed and days are estimates from the constants below, and are printed as such.
"""

from dataclasses import dataclass
from typing import Any

from sclds.batch.split import Split, split_batch
from sclds.config import Config
from sclds.config.errors import ConfigError, UserError
from sclds.costs.activations import memory_per_gpu
from sclds.costs.communication import communication_per_step
from sclds.costs.counts import Kind, packed_forward, parameter_counts, published_forward
from sclds.costs.stages import STAGE_3_HOST_TIME, largest_model
from sclds.costs.step import kind_shares, step_factor
from sclds.data.tokenizer import load_tokenizer
from sclds.machine.attention import BACKENDS, Machine, attention_problems, available, call_sites

DEFAULT_TEXT_TOKENS = 12
"""Tokens of an average caption, BOS and EOS included: Conceptual Captions under RoBERTa's tokenizer."""
DEFAULT_UTILIZATION = 0.4
"""Assumed share of the peak matmul speed; replace it by what `sclds profile` measured."""
RESERVED_SHARE = 0.1
"""Share of a GPU's memory left to CUDA, NCCL and fragmentation when micro-batches are judged to fit."""


@dataclass(frozen=True)
class Gpu:
    """A kind of accelerator.

    Attributes:
        peak_flops: Dense bf16 matmul operations per second, by the maker's data sheet.
        memory: Bytes.
        network: Bytes per second and GPU between hosts (one 200 or 400 Gbit/s port each).
        capability: Compute capability, which decides on attention backends.
    """

    peak_flops: float
    memory: int
    network: float
    capability: tuple[int, int] = (8, 0)


GPUS = {
    "a100": Gpu(312e12, 80 * 10**9, 25e9),
    "h100": Gpu(989e12, 80 * 10**9, 50e9, (9, 0)),
    "h200": Gpu(989e12, 141 * 10**9, 50e9, (9, 0)),
}
FP32_SLOWDOWN = 2
"""fp32 runs use TF32, at half the bf16 rate."""


def possible_splits(config: Config, processes: int) -> list[Split]:
    """Return the splits of the global batch over `processes`, largest micro-batch first.

    Raises:
        ConfigError: There is none; the message names what would have one.
    """
    splits = [split_batch(config.batch, processes)]
    while splits[-1].micro > config.batch.group_size:
        smaller = config.batch.model_copy(update={"max_micro_size": splits[-1].micro - 1})
        try:
            splits.append(split_batch(smaller, processes))
        except ConfigError:
            break
    return splits


def plan(config: Config, gpus: int, gpu: str, utilization: float, text_tokens: int) -> dict[str, Any]:
    """Return everything that a plan says.

    Raises:
        UserError: The GPU is unknown, or the global batch cannot be split over that many.
    """
    if gpu not in GPUS:
        raise UserError(f"--gpu {gpu} is not known; known are {', '.join(GPUS)}")
    if not 0 < utilization <= 1:
        raise UserError(f"--utilization {utilization} is not a share between 0 and 1; 0.4 is a usual one")
    if not 3 <= text_tokens <= config.data.max_text_tokens:
        raise UserError(
            f"--text-tokens {text_tokens} is outside 3 … data.max_text_tokens={config.data.max_text_tokens}"
        )
    splits = possible_splits(config, gpus)
    machine, vocabulary = GPUS[gpu], vocabulary_size(config)
    shares = kind_shares(config)
    kinds = list(shares)
    parts = parameter_counts(config, vocabulary)
    parameters = sum(parts.values())
    split = next((s for s in splits if _fits(config, s, kinds, text_tokens, vocabulary, machine)), splits[-1])
    memory = memory_per_gpu(config, split, kinds, text_tokens, vocabulary)
    wire = communication_per_step(config, split, kinds, text_tokens, vocabulary)
    stages = _zero_stages(config, split, kinds, text_tokens, vocabulary)
    free = machine.memory * (1 - RESERVED_SHARE) - memory["activations"]
    flops = _flops(config, shares, vocabulary, text_tokens)
    speed = _speed(config, split, machine, flops["forward_per_sample"], sum(wire.values()), utilization)
    return {
        "name": config.name,
        "mlm_view": config.losses.mlm_view,
        "assumptions": {
            "gpus": gpus,
            "gpu": gpu,
            "peak_flops": machine.peak_flops / (1 if config.engine.precision == "bf16" else FP32_SLOWDOWN),
            "utilization": utilization,
            "text_tokens": text_tokens,
            "network_bytes_per_second": machine.network,
            "estimated": [
                "memory.activations",
                "memory.bytes_per_gpu",
                "seconds_per_step",
                "samples_per_second",
                "days",
            ],
        },
        "split": {"micro_batch": split.micro, "accumulation": split.accumulation},
        "parameters": {"total": parameters, **parts},
        "flops": flops,
        "memory": {"bytes_per_gpu": sum(memory.values()), "gpu_bytes": machine.memory, **memory},
        "communication": {"bytes_per_step": sum(wire.values()), **wire},
        "zero_stages": stages,
        "faster_stage": _faster_stage(config, stages, machine.memory),
        "stage_3_pays_from": largest_model(_at_stage(config, 2), gpus, free),
        "attention": attention_on(config, machine),
        **speed,
    }


def attention_on(config: Config, gpu: Gpu) -> dict[str, list[str]]:
    """Return for each place that attends the backends that it can have on a kind of GPU, best first; all installed.

    Raises:
        UserError: `engine.attention` names one that cannot be had there.
    """
    there = Machine(True, gpu.capability, frozenset(BACKENDS))
    sites, wanted = call_sites(config.model, config.engine.precision), config.engine.attention
    if wanted == "auto":
        return {site: list(available(asked, there)) for site, asked in sites.items()}
    problems = attention_problems(wanted, sites, there)
    if problems:
        raise ConfigError(problems)
    return {site: [wanted] for site in sites}


def vocabulary_size(config: Config) -> int:
    """Return the rows of the word embedding; 0 in the configuration means the tokenizer's."""
    if config.model.text.vocab_size:
        return config.model.text.vocab_size
    return load_tokenizer(config.data.tokenizer).vocab_size


def _flops(config: Config, shares: dict[Kind, float], vocabulary: int, text_tokens: int) -> dict[str, Any]:
    """Count the schedules for every kind of sample, and their mean over the mix."""
    ways = {"exact": with_mlm_view(config, "t1"), "economy": with_mlm_view(config, "t2")}
    kinds: dict[str, Any] = {}
    for kind, share in shares.items():
        packed = packed_forward(config, kind, text_tokens, vocabulary)
        five = published_forward(config, kind, vocabulary)
        kinds[kind] = {
            "share": share,
            "forward_per_sample": sum(packed.values()),
            **{
                f"{name}_forward_per_sample": sum(packed_forward(way, kind, text_tokens, vocabulary).values())
                for name, way in ways.items()
            },
            "published_forward_per_sample": sum(five.values()),
            "parts": packed,
            "published_parts": five,
        }
    totals = [key for key in next(iter(kinds.values())) if key.endswith("forward_per_sample")]
    return {key: round(sum(of["share"] * of[key] for of in kinds.values())) for key in totals} | {"kinds": kinds}


def with_mlm_view(config: Config, view: str) -> Config:
    """Return the configuration with another `losses.mlm_view`: `t1` is the exact mode, `t2` the economy mode."""
    return config.model_copy(update={"losses": config.losses.model_copy(update={"mlm_view": view})})


def _speed(config: Config, split: Split, machine: Gpu, forward: int, wire: int, utilization: float) -> dict[str, float]:
    """Estimate the pace: computing and communication overlap, the slower of the two decides."""
    peak = machine.peak_flops / (1 if config.engine.precision == "bf16" else FP32_SLOWDOWN)
    operations = forward * step_factor(config, split.accumulation) * split.micro * split.accumulation
    computing, sending = operations / (peak * utilization), wire / machine.network
    step = max(computing, sending)
    return {
        "seconds_computing": computing,
        "seconds_communicating": sending,
        "seconds_per_step": step,
        "samples_per_second": config.batch.global_size / step,
        "days": step * config.schedule.steps / 86400,
    }


def _fits(config: Config, split: Split, kinds: list[Kind], text_tokens: int, vocabulary: int, machine: Gpu) -> bool:
    """Tell whether the estimate leaves the reserve free."""
    needed = sum(memory_per_gpu(config, split, kinds, text_tokens, vocabulary).values())
    return needed <= machine.memory * (1 - RESERVED_SHARE)


def _zero_stages(
    config: Config, split: Split, kinds: list[Kind], text_tokens: int, vocabulary: int
) -> list[dict[str, int]]:
    """Compare memory and traffic of all ZeRO stages at this split."""
    rows = []
    for stage in range(4):
        other = _at_stage(config, stage)
        rows.append(
            {
                "stage": stage,
                "bytes_per_gpu": sum(memory_per_gpu(other, split, kinds, text_tokens, vocabulary).values()),
                "bytes_per_step": sum(communication_per_step(other, split, kinds, text_tokens, vocabulary).values()),
            }
        )
    return rows


def _at_stage(config: Config, stage: int) -> Config:
    return config.model_copy(update={"engine": config.engine.model_copy(update={"zero_stage": stage})})


def _faster_stage(config: Config, stages: list[dict[str, int]], memory: int) -> str | None:
    """Return a sentence where a run at stage 3 would be faster at another stage that fits."""
    fit = [row for row in stages[1:3] if row["bytes_per_gpu"] <= memory * (1 - RESERVED_SHARE)]
    if config.engine.zero_stage != 3 or not fit:
        return None
    best = min(fit, key=lambda row: (row["bytes_per_step"], row["stage"]))
    amounts = (best["bytes_per_gpu"], best["bytes_per_step"], stages[3]["bytes_per_step"])
    needed, sent, now = (f"{amount / 1e9:.3g}" for amount in amounts)
    return (
        f"engine.zero_stage={best['stage']} is faster: it fits ({needed} of {memory / 1e9:.3g} GB per GPU), receives "
        f"{sent} GB a step instead of {now}, and the host needs {1 / STAGE_3_HOST_TIME:.2f} of stage 3's time"
    )


def faster_stage(config: Config, split: Split, memory: int) -> str | None:
    """Return a sentence where a run at stage 3 would be faster at another stage that fits.

    Args:
        config: The run.
        split: Of its batch over the processes.
        memory: Bytes of a device.
    """
    kinds, tokens = list(kind_shares(config)), min(DEFAULT_TEXT_TOKENS, config.data.max_text_tokens)
    return _faster_stage(config, _zero_stages(config, split, kinds, tokens, vocabulary_size(config)), memory)
