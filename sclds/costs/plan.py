"""What a configuration costs on a cluster, computed before any GPU-hour is spent.

Counts come from `sclds.costs.own_work`, time from `sclds.costs.predict`; here they become one answer: whether it fits,
how fast it is, for how long and for how many GPU-hours, what limits it, and which settings would be faster.
"""

from typing import Any

from sclds.batch.split import Split
from sclds.config import Config
from sclds.config.errors import ConfigError, UserError
from sclds.costs.activations import memory_per_gpu
from sclds.costs.clusters import Cluster, Kind
from sclds.costs.communication import communication_per_step
from sclds.costs.counts import packed_forward, parameter_counts, published_forward
from sclds.costs.goodput import checkpoint_bytes, goodput_of, goodput_tree
from sclds.costs.own_work import Mix
from sclds.costs.scaling import figures, limit_of, stage_3_table
from sclds.costs.search import RESERVED_SHARE, Outcome, as_configured, at_stage, search
from sclds.costs.stages import STAGE_3_HOST_TIME, largest_model
from sclds.costs.step import kind_shares
from sclds.data.tokenizer import load_tokenizer
from sclds.machine.attention import BACKENDS, Machine, attention_problems, available, call_sites

DEFAULT_TEXT_TOKENS = 12
"""Tokens of an average caption, BOS and EOS included: Conceptual Captions under RoBERTa's tokenizer."""
SHOWN = 5
"""Settings of the search that a plan shows."""
FASTER = 0.98
"""A stage that takes at most this share of another's time is called faster: predictions are no finer."""


def mix_of(config: Config, text_tokens: int | None = None) -> Mix:
    """Return what the samples of a run are like.

    Args:
        config: The run.
        text_tokens: Of an average caption; none takes a usual one's, or the configuration's longest if that is shorter.

    Raises:
        UserError: The text is longer than the configuration's longest.
    """
    if text_tokens is None:
        text_tokens = min(DEFAULT_TEXT_TOKENS, config.data.max_text_tokens)
    if not 3 <= text_tokens <= config.data.max_text_tokens:
        raise UserError(
            f"--text-tokens {text_tokens} is outside 3 … data.max_text_tokens={config.data.max_text_tokens}"
        )
    return Mix(kind_shares(config), text_tokens, vocabulary_size(config))


def plan(config: Config, cluster: Cluster, kinds: dict[str, Kind], text_tokens: int) -> dict[str, Any]:
    """Return everything that a plan says.

    Args:
        config: The run.
        cluster: Where.
        kinds: All that are known, for the table of stage 3.
        text_tokens: Of an average caption.

    Raises:
        UserError: The text is too long, or the global batch cannot be split over so many GPUs.
    """
    mix = mix_of(config, text_tokens)
    own, found = as_configured(config, cluster, mix), search(config, cluster, mix)
    best = found[0]
    parts = parameter_counts(config, mix.vocab_size)
    stages = _zero_stages(config, own, mix)
    wire = _received(config, own.split, mix)
    flops = _flops(config, mix)
    return {
        "name": config.name,
        "mlm_view": config.losses.mlm_view,
        "assumptions": _assumptions(config, cluster, text_tokens),
        "fits": own.fits,
        "why": own.why or _smaller_micro(config, own),
        **_speed(config, own),
        "best": {"fits": best.fits, **_speed(config, best), "settings": best.settings(config)},
        "search": [
            {
                "fits": o.fits,
                "why": o.why,
                "bytes_per_gpu": o.needed,
                **(figures(o, config) if o.fits else _named(o, config)),
            }
            for o in found
        ],
        "parameters": {"total": sum(parts.values()), **parts},
        "flops": flops,
        "memory": {"bytes_per_gpu": own.needed, "gpu_bytes": round(cluster.kind.memory), **own.memory},
        "communication": {"bytes_per_step": sum(wire.values()), **wire},
        "zero_stages": stages,
        "faster_stage": _faster_stage(config, stages, cluster.kind.memory),
        "stage_3_pays_from": _stage_3_pays_from(config, own),
        "stage_3_table": stage_3_table(config, kinds, cluster.gpus, mix),
        "attention": attention_on(config, cluster.kind),
    }


def _assumptions(config: Config, cluster: Cluster, text_tokens: int) -> dict[str, Any]:
    kind = cluster.kind
    return {
        "gpus": cluster.gpus,
        "gpu": cluster.name,
        "nodes": cluster.nodes,
        "peak_flops": kind.peak(config.engine.precision),
        "text_tokens": text_tokens,
        "network_bytes_per_second": cluster.link,
        "figures": kind.model_dump(exclude={"sources"}),
        "sources": kind.sources,
        "estimated": [
            "memory.activations",
            "memory.bytes_per_gpu",
            "seconds_per_step",
            "samples_per_second",
            "days",
            "gpu_hours",
            "goodput",
        ],
    }


def _speed(config: Config, outcome: Outcome) -> dict[str, Any]:
    """Return pace, time and cost of a setting."""
    step, cluster = outcome.time.total, outcome.cluster
    parameters = sum(parameter_counts(config, outcome.mix.vocab_size).values())
    size = checkpoint_bytes(parameters, config.engine.precision)
    goodput = goodput_of(cluster, size, config.checkpoint.every * step)
    found = figures(outcome, config)
    cores = outcome.work.core_seconds * cluster.gpus / step
    return {
        "split": {"micro_batch": outcome.split.micro, "accumulation": outcome.split.accumulation},
        "seconds": outcome.time.breakdown(),
        "seconds_computing": outcome.time.device,
        "seconds_communicating": outcome.time.communication,
        "seconds_per_step": step,
        "samples_per_second": found["samples_per_second"],
        "mfu": found["mfu"],
        "limit": limit_of(outcome),
        "days": found["days"],
        "days_with_failures": found["days"] / goodput.share,
        "gpu_hours": found["days"] / goodput.share * 24 * cluster.gpus,
        "decoding": {"cores": cores, "cores_available": cluster.kind.cores_per_gpu * cluster.gpus},
        "goodput": goodput_tree(goodput, step),
    }


def _named(outcome: Outcome, config: Config) -> dict[str, Any]:
    split = outcome.split
    return {
        "micro_batch": split.micro,
        "accumulation": split.accumulation,
        "settings": outcome.settings(config),
    }


def _smaller_micro(config: Config, own: Outcome) -> str | None:
    """Return a sentence where a smaller micro-batch than the configuration's is what fits."""
    return next(
        (
            f"only with {setting}: micro-batches of {config.batch.max_micro_size} need more memory"
            for setting in own.settings(config)
            if setting.startswith("batch.max_micro_size")
        ),
        None,
    )


def attention_on(config: Config, kind: Kind) -> dict[str, list[str]]:
    """Return for each place that attends the backends that it can have on a kind of GPU, best first; all installed.

    Raises:
        UserError: `engine.attention` names one that cannot be had there.
    """
    there = Machine(kind.asynchronous, kind.capability, frozenset(BACKENDS))
    sites, wanted = call_sites(config.model, config.engine.precision), config.engine.attention
    if wanted == "auto":
        return {site: list(available(asked, there)) for site, asked in sites.items()}
    problems = attention_problems(wanted, sites, there)
    if problems:
        raise ConfigError(problems)
    return {site: [wanted] for site in sites}


def _received(config: Config, split: Split, mix: Mix) -> dict[str, int]:
    """Return the bytes that one GPU receives in a step, by purpose."""
    return communication_per_step(config, split, list(mix.shares), mix.text_tokens, mix.vocab_size)


def vocabulary_size(config: Config) -> int:
    """Return the rows of the word embedding; 0 in the configuration means the tokenizer's."""
    if config.model.text.vocab_size:
        return config.model.text.vocab_size
    return load_tokenizer(config.data.tokenizer).vocab_size


def _flops(config: Config, mix: Mix) -> dict[str, Any]:
    """Count the schedules for every kind of sample, and their mean over the mix."""
    ways = {"exact": with_mlm_view(config, "t1"), "economy": with_mlm_view(config, "t2")}
    text_tokens, vocabulary = mix.text_tokens, mix.vocab_size
    kinds: dict[str, Any] = {}
    for kind, share in mix.shares.items():
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


def _zero_stages(config: Config, own: Outcome, mix: Mix) -> list[dict[str, Any]]:
    """Compare memory, traffic and time of all ZeRO stages at a setting's split."""
    rows = []
    for stage in range(4):
        other = Outcome(at_stage(config, stage), own.split, own.cluster, mix)
        wire = _received(other.config, own.split, mix)
        rows.append(
            {
                "stage": stage,
                "bytes_per_gpu": other.needed,
                "bytes_per_step": sum(wire.values()),
                "seconds_per_step": other.time.total,
            }
        )
    return rows


def _stage_3_pays_from(config: Config, own: Outcome) -> int:
    free = own.cluster.kind.memory * (1 - RESERVED_SHARE) - own.memory["activations"]
    return largest_model(at_stage(config, 2), own.cluster.gpus, free)


def _faster_stage(config: Config, stages: list[dict[str, Any]], memory: float) -> str | None:
    """Return a sentence where another stage than the configuration's fits, and is predicted to be faster there."""
    own = stages[config.engine.zero_stage]["seconds_per_step"]
    fit = [row for row in stages if row["bytes_per_gpu"] <= memory * (1 - RESERVED_SHARE)]
    best = min(fit, key=lambda row: row["seconds_per_step"], default=None)
    if best is None or best["seconds_per_step"] > FASTER * own:
        return None
    return (
        f"engine.zero_stage={best['stage']} is faster here: {1000 * best['seconds_per_step']:.3g} ms a step instead of "
        f"{1000 * own:.3g}, in {best['bytes_per_gpu'] / 1e9:.3g} of {memory / 1e9:.3g} GB per GPU"
    )


def faster_stage(config: Config, split: Split, memory: int) -> str | None:
    """Return a sentence where a run at stage 3 would ask less of its host at another stage that fits.

    Whether that makes it faster depends on the machine, which a run does not know: `plan` says so of a known one.

    Args:
        config: The run.
        split: Of its batch over the processes.
        memory: Bytes of a device.
    """
    if config.engine.zero_stage != 3:
        return None
    mix = mix_of(config)
    for stage in (1, 2):
        parts = memory_per_gpu(at_stage(config, stage), split, list(mix.shares), mix.text_tokens, mix.vocab_size)
        needed = sum(parts.values())
        if needed <= memory * (1 - RESERVED_SHARE):
            return (
                f"engine.zero_stage={stage} fits too ({needed / 1e9:.3g} of {memory / 1e9:.3g} GB per GPU), and asks "
                f"{1 / STAGE_3_HOST_TIME:.2f} of stage 3's time of the host: faster where the host decides, which "
                "`sclds plan` predicts"
            )
    return None
