"""`sclds plan`: what a configuration costs on a cluster, computed before any GPU-hour is spent."""

import json
from typing import TYPE_CHECKING, Any

import click

from sclds.cli.arguments import Share, Whole, configured
from sclds.cli.command import Command, Constant

if TYPE_CHECKING:
    from sclds.cli.printing import Sheet

_COSTS = "sclds.costs.plan"


@click.command("plan", cls=Command)
@configured
@click.option("--gpus", type=Whole(1, 1_000_000), default=64, help="GPUs of the cluster")
@click.option("--gpu", default="h100", metavar="KIND", help="kind of them: a100, h100 or h200")
@click.option(
    "--utilization",
    type=Share(),
    default=Constant(_COSTS, "DEFAULT_UTILIZATION"),
    help="assumed share of peak speed; `sclds profile` measures it",
)
@click.option(
    "--text-tokens",
    type=Whole(3, 512),
    default=Constant(_COSTS, "DEFAULT_TEXT_TOKENS"),
    help="tokens of an average caption, with BOS and EOS",
)
@click.option("--json", "as_json", is_flag=True, help="print JSON instead of tables")
def command(
    config: str,
    overrides: tuple[str, ...],
    gpus: int,
    gpu: str,
    utilization: float,
    text_tokens: int,
    as_json: bool,
) -> None:
    """Compute speed, memory and communication of a configuration on a cluster."""
    from sclds.config.reading import load_config
    from sclds.config.rules import refuse_task
    from sclds.costs.plan import plan

    settings = load_config(config, list(overrides))
    refuse_task(settings, "sclds plan")
    result = plan(settings, gpus, gpu, utilization, text_tokens)
    if as_json:
        print(json.dumps(result, indent=2))
        return
    from sclds.cli.printing import Sheet

    _print(Sheet(), result)


def _print(sheet: "Sheet", result: dict[str, Any]) -> None:
    """Print the plan: FLOPs, memory, ZeRO stages, speed."""
    from sclds.cli.printing import amount

    assumed = result["assumptions"]
    sheet.text(f"{result['name']} on {assumed['gpus']} × {assumed['gpu'].upper()}\n")
    rows = []
    for kind, row in result["flops"]["kinds"].items():
        published, *ours = (row[f"{name}_forward_per_sample"] for name in ("published", "exact", "economy"))
        fewer = [f"{amount(flops, 'FLOP')} ({published / flops:.1f}× fewer)" for flops in ours]
        rows.append((kind, f"{row['share']:.0%}", amount(published, "FLOP"), *fewer))
    headings = ("kind", "share", "published schedule", "exact mode", "economy mode")
    sheet.table(headings, rows, "Forward pass per sample (counted)", right=True)
    sheet.text(f"This configuration runs the {'exact' if result['mlm_view'] == 't1' else 'economy'} mode.\n")
    _print_memory(sheet, result["memory"])
    sheet.table(
        ("stage", "memory per GPU", "received per step"),
        [
            (str(row["stage"]), amount(row["bytes_per_gpu"], "B"), amount(row["bytes_per_step"], "B"))
            for row in result["zero_stages"]
        ],
        "ZeRO stages at this split",
        right=True,
    )
    alike: dict[str, list[str]] = {}
    for site, backends in result["attention"].items():
        alike.setdefault(", ".join(backends), []).append(site)
    attention = "; ".join(f"{', '.join(sites)} {backends}" for backends, sites in alike.items())
    sheet.text(f"Attention there, the first of these that is installed: {attention} (docs/engine.md).")
    if result["faster_stage"]:
        sheet.text(f"{result['faster_stage']}.")
    from_size = f"{result['stage_3_pays_from'] / 1e9:.3g} G parameters"
    sheet.text(f"Stage 3 pays from {from_size} on, which no longer fit at stage 2 beside these activations.\n")
    _print_speed(sheet, result)


def _print_memory(sheet: "Sheet", memory: dict[str, int]) -> None:
    from sclds.cli.printing import amount
    from sclds.costs.plan import RESERVED_SHARE

    parts = [f"{name} {amount(memory[name], 'B')}" for name in memory if name not in ("bytes_per_gpu", "gpu_bytes")]
    sheet.text(
        f"Memory per GPU (estimate): {amount(memory['bytes_per_gpu'], 'B')} of {amount(memory['gpu_bytes'], 'B')} "
        f"({', '.join(parts)})"
    )
    if memory["bytes_per_gpu"] > memory["gpu_bytes"] * (1 - RESERVED_SHARE):
        sheet.text("This does not fit. Set engine.activation_checkpointing=true, or use more GPUs.")


def _print_speed(sheet: "Sheet", result: dict[str, Any]) -> None:
    from sclds.cli.printing import duration

    assumed, split = result["assumptions"], result["split"]
    step, computing, sending = (
        duration(result[f"seconds_{name}"]) for name in ("per_step", "computing", "communicating")
    )
    sheet.text(
        f"Micro-batch {split['micro_batch']}, accumulation {split['accumulation']}. Estimate at "
        f"{assumed['utilization']:.0%} of {assumed['peak_flops'] / 1e12:.0f} TFLOP/s: "
        f"{result['samples_per_second']:,.0f} samples/s, {step} a step ({computing} computing, {sending} "
        f"communicating, overlapped), {duration(86400 * result['days'])} in all. Reading and decoding must keep that "
        f"pace: `sclds profile` shows whether they do."
    )
