"""Variants of a run side by side: each in fresh processes, all in turn, several rounds.

Under a launcher every rank starts its own part of each variant as a process with the rank that it was given itself, so
that variants run where and as widely as the run would. What one of them meets they all take as the variant's.
"""

import csv
import io
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from sclds.benchmarks.rows import quantiles
from sclds.benchmarks.variant_process import Ranks, run_part
from sclds.run.files import write_atomically

WORKER = "sclds.cli.profile"
"""What runs a variant, by name: a string, since commands lie above this room."""
CONFIGURED = "configured"
PUBLISHED = "published"


@dataclass(frozen=True)
class Variant:
    """A run with some settings replaced."""

    overrides: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    """Options of the command besides."""


VARIANTS: Mapping[str, Variant] = {
    CONFIGURED: Variant(),
    PUBLISHED: Variant(("engine.zero_stage=0", "engine.activation_checkpointing=false"), ("--published",)),
    "kernels_triton": Variant(("engine.kernels=triton",)),
    "kernels_torch": Variant(("engine.kernels=torch",)),
    **{
        f"attention_{name}": Variant((f"engine.attention={name}",))
        for name in ("flash_attn_3", "flash_attn_4", "flash_attn", "torch_varlen", "sdpa")
    },
    **{f"zero_{stage}": Variant((f"engine.zero_stage={stage}",)) for stage in range(4)},
    "checkpointing": Variant(("engine.activation_checkpointing=true",)),
    "economy": Variant(("losses.mlm_view=t2",)),
    "fp32": Variant(("engine.precision=fp32",)),
    "bf16": Variant(("engine.precision=bf16",)),
}
"""By name: the run as configured, and what it is compared with. `published` runs the reference at ZeRO stage 0."""
ALL = "all"
FIGURES = (
    *("samples_per_second", "tokens_per_second", "mfu", "mfu_measured", "hfu", "hfu_measured", "flops_per_step"),
    *("peak_flops", "wire_bytes", "memory_bytes", "padding_avoided", "overlap", "host_seconds"),
)
"""Numbers of a variant that rounds are the median of."""


@dataclass(frozen=True)
class Comparison:
    """What is run.

    Attributes:
        config: YAML file, or the name of a shipped configuration.
        overrides: Settings over it, in all variants.
        names: Of variants; the first is what the others are held against.
        steps: That count, of each variant in each round.
        rounds: How often each variant runs.
        traces: Folder for traces, one below it for each variant; None writes none.
        limit: Seconds after which a variant is given up.
    """

    config: str
    overrides: tuple[str, ...]
    names: tuple[str, ...]
    steps: int
    rounds: int
    traces: Path | None
    limit: float


def chosen(names: Sequence[str]) -> tuple[str, ...]:
    """Return the variants that were asked for, each once, the run as configured first."""
    asked = tuple(VARIANTS) if ALL in names else names
    return tuple(dict.fromkeys((CONFIGURED, *asked)))


def compare(
    asked: Comparison, say: Callable[[str], None], keep: Callable[[dict[str, Any]], None]
) -> dict[str, Any] | None:
    """Run all variants in turn; every rank calls it.

    Args:
        asked: What is run.
        say: Prints a line.
        keep: Gets on rank 0 what is known after each variant, in the form of the result: a comparison takes long, and
            what stops it costs only the variant that runs.

    Returns:
        On rank 0 the parts of a profile: `environment`, `config` and `variants`; None on the others.
    """
    rank, results = int(os.environ.get("RANK", "0")), dict[str, list[dict[str, Any]]]()
    failed: dict[str, str] = {}
    ranks = _ranks(rank)
    with tempfile.TemporaryDirectory() as scratch:
        for turn in range(asked.rounds):
            names = asked.names if turn % 2 == 0 else asked.names[::-1]
            for place, name in enumerate(names):
                if name in failed:
                    continue
                say(f"round {turn + 1} of {asked.rounds}: {name}")
                file = Path(scratch) / f"{name}-{turn}.json"
                number = turn * len(names) + place
                why = _run(asked, name, file, number, turn == 0, ranks)
                if why is None and rank == 0:
                    results.setdefault(name, []).append(json.loads(file.read_text(encoding="utf-8")))
                elif why is not None:
                    failed[name] = why
                    results.pop(name, None)
                    say(f"{name} cannot run here: {why}")
                if rank == 0:
                    keep(_together(asked, results, failed))
    ranks.part()
    return None if rank else _together(asked, results, failed)


def _ranks(rank: int) -> Ranks:
    """Return the ranks that the launcher started; a process alone needs none of what they meet through."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        return Ranks()
    from sclds.train.distributed import meeting_store

    return Ranks(meeting_store(), rank, world_size)


def _together(
    asked: Comparison, results: Mapping[str, list[dict[str, Any]]], failed: Mapping[str, str]
) -> dict[str, Any]:
    """Return the parts of a profile of the variants that have run so far, or could not."""
    first = next(iter(results.values()), [{}])[0]
    return {
        "environment": first.get("environment", {}),
        "config": first.get("config", {}),
        "variants": [
            merged(name, results[name]) if name in results else _missing(name, asked.steps, failed[name])
            for name in asked.names
            if name in results or name in failed
        ],
    }


def _run(asked: Comparison, name: str, file: Path, number: int, with_trace: bool, ranks: Ranks) -> str | None:
    """Run a variant once; return why it did not succeed."""
    variant = VARIANTS[name]
    words = ["--config", asked.config, "--steps", str(asked.steps), "--into", str(file), *variant.words]
    if asked.traces is not None and with_trace:
        words += ["--trace-into", str(asked.traces / name)]
    command = [sys.executable, "-m", WORKER, *words, *_joined(asked.overrides, variant.overrides)]
    return run_part(command, _environment(number), asked.limit, number, ranks)


def _joined(overrides: Sequence[str], own: Sequence[str]) -> list[str]:
    """Return settings without those that a variant replaces: a key is given once."""
    keys = {setting.partition("=")[0] for setting in own}
    return [setting for setting in overrides if setting.partition("=")[0] not in keys] + list(own)


def _environment(number: int) -> dict[str, str]:
    """Return the environment of this rank's part of a variant: its ranks meet at a port of their own."""
    environment = dict(os.environ)
    if "MASTER_PORT" in environment:
        # a port that has just been used may still be taken
        environment["MASTER_PORT"] = str(int(environment["MASTER_PORT"]) + 1 + number)
    # torchrun's own store is at its own port
    environment.pop("TORCHELASTIC_USE_AGENT_STORE", None)
    return environment


def merged(name: str, rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a variant's rounds as one entry of a profile."""
    variants = [one["variant"] for one in rounds]
    found = dict(variants[0])
    for figure in FIGURES:
        values = [variant[figure] for variant in variants if variant[figure] is not None]
        found[figure] = median(values) if values else None
    phases = variants[0]["seconds"]
    spread = [[variant["quantiles"][phase] for variant in variants] for phase in phases]
    return found | {
        "name": name,
        "overrides": list(VARIANTS[name].overrides),
        "rounds": len(variants),
        "seconds": {phase: median(variant["seconds"][phase] for variant in variants) for phase in phases},
        "quantiles": {
            phase: [median(low for low, _ in of), median(high for _, high in of)]
            for phase, of in zip(phases, spread, strict=True)
        },
        "step_seconds": [seconds for variant in variants for seconds in variant["step_seconds"]],
        "round_rates": [variant["samples_per_second"] for variant in variants],
    }


def _missing(name: str, steps: int, why: str) -> dict[str, Any]:
    empty: dict[str, Any] = dict.fromkeys(FIGURES)
    return empty | {
        "name": name,
        "overrides": list(VARIANTS[name].overrides),
        "steps": steps,
        "seconds": {},
        "quantiles": {},
        "step_seconds": [],
        "round_rates": [],
        "failed": why,
    }


def ratios(variants: Sequence[Mapping[str, Any]]) -> list[tuple[float, float, float] | None]:
    """Return each variant's pace over the first one's, round by round: median, 20 % and 80 % quantile."""
    base = variants[0]["round_rates"]
    found: list[tuple[float, float, float] | None] = []
    for variant in variants:
        pairs = list(zip(variant["round_rates"], base, strict=False))
        found.append(quantiles([one / other for one, other in pairs]) if pairs else None)
    return found


def write_table(variants: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write `variants` as CSV: a row each, with their pace over the first one's."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("variant", "ratio", "ratio_q20", "ratio_q80", *FIGURES, "failed"))
    for variant, ratio in zip(variants, ratios(variants), strict=True):
        figures = (variant[figure] for figure in FIGURES)
        writer.writerow((variant["name"], *(ratio or ("", "", "")), *figures, variant["failed"] or ""))
    write_atomically(path, text.getvalue())
