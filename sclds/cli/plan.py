"""`sclds plan`: what a configuration costs on a cluster, computed before any GPU-hour is spent."""

import argparse
import json
from typing import Any

from rich.console import Console
from rich.table import Table

from sclds.cli.arguments import add_config
from sclds.config.reading import load_config
from sclds.costs.plan import DEFAULT_TEXT_TOKENS, DEFAULT_UTILIZATION, GPUS, RESERVED_SHARE, plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_config(parser)
    parser.add_argument("--gpus", type=int, default=64, help="GPUs of the cluster (default 64)")
    parser.add_argument("--gpu", default="h100", help=f"one of {', '.join(GPUS)} (default h100)")
    parser.add_argument(
        "--utilization",
        type=float,
        default=DEFAULT_UTILIZATION,
        help=f"assumed share of peak speed (default {DEFAULT_UTILIZATION})",
    )
    parser.add_argument(
        "--text-tokens",
        type=int,
        default=DEFAULT_TEXT_TOKENS,
        help=f"tokens of an average caption, with BOS and EOS (default {DEFAULT_TEXT_TOKENS})",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def run(arguments: argparse.Namespace) -> int:
    """Print the plan of a configuration; returns the exit code."""
    config = load_config(arguments.config, arguments.overrides)
    result = plan(config, arguments.gpus, arguments.gpu, arguments.utilization, arguments.text_tokens)
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        _print(Console(), result)
    return 0


def _print(console: Console, result: dict[str, Any]) -> None:
    """Print the plan as tables."""
    assumed = result["assumptions"]
    console.print(f"[bold]{result['name']}[/bold] on {assumed['gpus']} × {assumed['gpu'].upper()}\n")
    table = Table(title="Forward FLOPs per sample (counted)", title_justify="left")
    for heading in ("kind", "share", "published schedule", "exact mode", "economy mode"):
        table.add_column(heading, justify="left" if heading == "kind" else "right")
    for kind, row in result["flops"]["kinds"].items():
        published, *ours = (row[f"{name}_forward_per_sample"] for name in ("published", "exact", "economy"))
        fewer = [f"{flops / 1e9:.0f} G ({published / flops:.1f}× fewer)" for flops in ours]
        table.add_row(kind, f"{row['share']:.0%}", f"{published / 1e9:.0f} G", *fewer)
    console.print(table)
    console.print(f"This configuration runs the {'exact' if result['mlm_view'] == 't1' else 'economy'} mode.\n")
    memory = result["memory"]
    parts = [f"{name} {memory[name] / 1e9:.1f}" for name in memory if name not in ("bytes_per_gpu", "gpu_bytes")]
    console.print(
        f"Memory per GPU (estimate): {memory['bytes_per_gpu'] / 1e9:.1f} of {memory['gpu_bytes'] / 1e9:.0f} GB "
        f"({', '.join(parts)})"
    )
    if memory["bytes_per_gpu"] > memory["gpu_bytes"] * (1 - RESERVED_SHARE):
        console.print("[red]This does not fit.[/red] Set engine.activation_checkpointing=true, or use more GPUs.")
    stages = Table(title="ZeRO stages at this split", title_justify="left")
    for heading in ("stage", "memory per GPU", "received per step"):
        stages.add_column(heading, justify="right")
    for row in result["zero_stages"]:
        stages.add_row(
            str(row["stage"]), f"{row['bytes_per_gpu'] / 1e9:.1f} GB", f"{row['bytes_per_step'] / 1e9:.2f} GB"
        )
    console.print(stages)
    split, days = result["split"], result["days"]
    length = f"{days:.1f} days" if days >= 2 else f"{24 * days:.1f} hours"
    console.print(
        f"Micro-batch {split['micro_batch']}, accumulation {split['accumulation']}. Estimate at "
        f"{assumed['utilization']:.0%} of {assumed['peak_flops'] / 1e12:.0f} TFLOP/s: "
        f"{result['samples_per_second']:,.0f} samples/s, {result['seconds_per_step']:.2f} s a step "
        f"({result['seconds_computing']:.2f} s computing, {result['seconds_communicating']:.2f} s communicating, "
        f"overlapped), [bold]{length}[/bold]. Reading and decoding must keep that pace: "
        "`sclds profile` shows whether they do."
    )
