"""`sclds plan`: what a configuration costs on a cluster, computed before any GPU-hour is spent."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sclds.cli.arguments import FILE, Whole, configured
from sclds.cli.command import Command, Constant

if TYPE_CHECKING:
    from sclds.cli.printing import Sheet

_COSTS = "sclds.costs.plan"
_LIMITS = {
    "compute": "the GPUs' matrix products",
    "memory traffic": "the GPUs' memory, in operators between matrix products",
    "host": "the host, which launches kernels and runs ZeRO's hooks",
    "decode": "reading and decoding on the CPU",
    "link": "the links between GPUs",
    "global batch": "the global batch: no GPU could be given less",
}


@click.command("plan", cls=Command)
@configured
@click.option("--gpus", type=Whole(1, 1_000_000), default=64, help="GPUs of the cluster")
@click.option("--gpu", default="h100", metavar="KIND", help="kind of them: a100-40, a100-80, h100, h200, b200 or yours")
@click.option("--nodes", type=Whole(1, 1_000_000), default=None, help="machines; by default as few as the kind allows")
@click.option("--clusters", type=FILE, default=None, metavar="FILE", help="YAML with kinds of yours (docs/costs.md)")
@click.option(
    "--calibrate", type=FILE, default=None, metavar="PATH", help="profile.json of such a machine, or its folder"
)
@click.option(
    "--text-tokens",
    type=Whole(3, 512),
    default=Constant(_COSTS, "DEFAULT_TEXT_TOKENS"),
    help="tokens of an average caption, with BOS and EOS",
)
@click.option("--scaling", is_flag=True, help="also the best settings on 1 to 4,096 GPUs, and what limits each")
@click.option("--plot", type=FILE, default=None, metavar="FILE", help="draw that: PNG, SVG or PDF by the file's name")
@click.option("--json", "as_json", is_flag=True, help="print JSON instead of tables")
def command(
    config: str,
    overrides: tuple[str, ...],
    gpus: int,
    gpu: str,
    nodes: int | None,
    clusters: Path | None,
    calibrate: Path | None,
    text_tokens: int,
    scaling: bool,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Say whether a configuration fits a cluster, how fast it is, for how long, and what would be faster.

    docs/costs.md says how, and how far the same model of time is off published runs.
    """
    from sclds.config.reading import load_config
    from sclds.config.rules import refuse_task
    from sclds.costs.calibration import calibrated
    from sclds.costs.clusters import ALIASES, cluster_of, known_kinds
    from sclds.costs.plan import mix_of, plan
    from sclds.costs.scaling import check_picture, draw
    from sclds.costs.scaling import scaling as rows_of_all_sizes

    settings = load_config(config, list(overrides))
    refuse_task(settings, "sclds plan")
    if plot is not None:
        check_picture(plot)
    kinds = known_kinds(clusters)
    cluster, notes = cluster_of(kinds, gpu, gpus, nodes), []
    if gpu in ALIASES:
        notes.append(f"{gpu} is taken as {ALIASES[gpu]}; the other is a100-40.")
    if calibrate is not None:
        kinds, told = calibrated(kinds, cluster.name, calibrate, mix_of)
        cluster, notes = cluster_of(kinds, gpu, gpus, nodes), notes + told
    result = plan(settings, cluster, kinds, text_tokens) | {"notes": notes}
    if scaling or plot is not None:
        result["scaling"] = rows_of_all_sizes(settings, kinds, gpu, mix_of(settings, text_tokens))
    if plot is not None:
        draw(result["scaling"], f"{settings.name} on {cluster.name}", plot)
    if as_json:
        print(json.dumps(result, indent=2))
        return
    from sclds.cli.printing import Sheet

    _print(Sheet(), result)
    if plot is not None:
        print(f"drawn to {plot}")


def _print(sheet: "Sheet", result: dict[str, Any]) -> None:
    """Print the plan: what a user asks first, then what it rests on."""
    assumed = result["assumptions"]
    machines = "1 machine" if assumed["nodes"] == 1 else f"{assumed['nodes']:,} machines"
    sheet.text(f"{result['name']} on {assumed['gpus']:,} × {assumed['gpu'].upper()} ({machines})\n")
    for note in result["notes"]:
        sheet.text(note)
    _print_answer(sheet, result)
    _print_search(sheet, result)
    _print_step(sheet, result)
    _print_flops(sheet, result)
    _print_memory(sheet, result)
    if "scaling" in result:
        _print_scaling(sheet, result["scaling"])


def _print_answer(sheet: "Sheet", result: dict[str, Any]) -> None:
    from sclds.cli.printing import amount, duration

    memory, best = result["memory"], result["best"]
    if result["fits"]:
        needed = f"{amount(memory['bytes_per_gpu'], 'B')} of {amount(memory['gpu_bytes'], 'B')} a GPU"
        only = f", {result['why']}" if result["why"] else ""
        sheet.text(f"Fits: {needed} (estimate){only}.")
    elif best["fits"]:
        sheet.text(f"Does not fit: it {result['why']}. What fits: {' '.join(best['settings'])}, of which this is:")
        result = result | best
    else:
        sheet.text(f"Does not fit: it {result['why']}. No setting fits on these GPUs: use more, or larger ones.\n")
        return
    sheet.text(
        f"{_pace(result['samples_per_second'])} samples/s, {duration(result['seconds_per_step'])} a step, "
        f"MFU {result['mfu']:.0%} (estimate). Training takes {duration(86400 * result['days_with_failures'])} with "
        f"failures, {_hours(result['gpu_hours'])} GPU-hours."
    )
    sheet.text(f"Limited by {_LIMITS[result['limit']]}.\n")


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"


def _pace(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.3g}"


def _print_search(sheet: "Sheet", result: dict[str, Any]) -> None:
    from sclds.cli.printing import amount, duration
    from sclds.costs.plan import SHOWN

    found, best = result["search"], result["best"]
    fit = [row for row in found if row["fits"]]
    if fit:
        gain = best["samples_per_second"] / result["samples_per_second"] - 1
        faster = f"{gain:.0%} faster than as configured" if gain >= 0.005 else "no faster than as configured"
        faster = faster if result["fits"] else "as configured it does not"
        sheet.table(
            ("settings", "samples/s", "a step", "memory", "MFU"),
            [
                (
                    " ".join(row["settings"]) or "as configured",
                    _pace(row["samples_per_second"]),
                    duration(row["seconds_per_step"]),
                    amount(row["bytes_per_gpu"], "B"),
                    f"{row['mfu']:.0%}",
                )
                for row in fit[:SHOWN]
            ],
            f"Best of {len(found)} settings, {len(fit)} of which fit ({faster})",
            right=True,
        )
    if len(fit) < len(found):
        nearest = next(row for row in found if not row["fits"])
        sheet.text(
            f"The nearest that does not fit, {' '.join(nearest['settings']) or 'as configured'}, {nearest['why']}."
        )
    print()


def _print_step(sheet: "Sheet", result: dict[str, Any]) -> None:
    from sclds.cli.printing import amount, duration

    if not result["fits"]:
        return
    split, seconds, goodput, cores = (result[name] for name in ("split", "seconds", "goodput", "decoding"))
    beside = _BESIDE if result["assumptions"]["figures"]["asynchronous"] else dict.fromkeys(_BESIDE, "one by one")
    sheet.table(
        ("part of a step", "time", "runs"),
        [(name, duration(value) if value else "none", beside[name]) for name, value in seconds.items()],
        f"A step as configured: micro-batch {split['micro_batch']}, accumulation {split['accumulation']}",
    )
    sheet.text(
        f"Reading and decoding take {cores['cores']:,.1f} cores of {cores['cores_available']:,}. A checkpoint has "
        f"{amount(goodput['checkpoint_bytes'], 'B')}: training waits {duration(goodput['checkpoint_stall_seconds'])}, "
        f"and it is written after {duration(goodput['checkpoint_write_seconds'])}. A job of this size fails every "
        f"{duration(goodput['seconds_between_failures'])}; goodput is {goodput['goodput']:.2%} as configured, and "
        f"{goodput['best_goodput']:.2%} (simulated {goodput['simulated_goodput']:.2%}) with "
        f"checkpoint.every={goodput['best_checkpoint_steps']}, a checkpoint in "
        f"{duration(goodput['best_checkpoint_seconds'])}.\n"
    )


_BESIDE = {
    "products": "on the GPU",
    "element-wise": "on the GPU, after them",
    "host": "beside the GPU",
    "exposed communication": "behind the slowest",
    "data": "beside the GPU",
    "waiting": "for the slowest machine",
}


def _print_flops(sheet: "Sheet", result: dict[str, Any]) -> None:
    from sclds.cli.printing import amount

    rows = []
    for kind, row in result["flops"]["kinds"].items():
        published, *ours = (row[f"{name}_forward_per_sample"] for name in ("published", "exact", "economy"))
        fewer = [f"{amount(flops, 'FLOP')} ({published / flops:.1f}× fewer)" for flops in ours]
        rows.append((kind, f"{row['share']:.0%}", amount(published, "FLOP"), *fewer))
    headings = ("kind", "share", "published schedule", "exact mode", "economy mode")
    sheet.table(headings, rows, "Forward pass per sample (counted)", right=True)
    sheet.text(f"This configuration runs the {'exact' if result['mlm_view'] == 't1' else 'economy'} mode.\n")


def _print_memory(sheet: "Sheet", result: dict[str, Any]) -> None:
    from sclds.cli.printing import amount, duration

    memory = result["memory"]
    parts = [f"{name} {amount(memory[name], 'B')}" for name in memory if name not in ("bytes_per_gpu", "gpu_bytes")]
    sheet.text(f"Memory per GPU (estimate): {amount(memory['bytes_per_gpu'], 'B')} ({', '.join(parts)})")
    sheet.table(
        ("stage", "memory per GPU", "received per step", "a step"),
        [
            (
                str(row["stage"]),
                amount(row["bytes_per_gpu"], "B"),
                amount(row["bytes_per_step"], "B"),
                duration(row["seconds_per_step"]),
            )
            for row in result["zero_stages"]
        ],
        "ZeRO stages at this split",
        right=True,
    )
    if result["faster_stage"]:
        sheet.text(f"{result['faster_stage']}.")
    _print_stage_3(sheet, result)
    alike: dict[str, list[str]] = {}
    for site, backends in result["attention"].items():
        alike.setdefault(", ".join(backends), []).append(site)
    attention = "; ".join(f"{', '.join(sites)} {backends}" for backends, sites in alike.items())
    sheet.text(f"Attention there, the first of these that is installed: {attention} (docs/engine.md).")


def _print_stage_3(sheet: "Sheet", result: dict[str, Any]) -> None:
    from sclds.cli.printing import amount

    rows = result["stage_3_table"]
    micros = list(dict.fromkeys(row["micro_batch"] for row in rows))
    by_memory: dict[int, list[str]] = {}
    for row in rows:
        many = row["parameters"]
        by_memory.setdefault(row["gpu_bytes"], []).append(f"{many / 1e9:.3g} G" if many else "does not fit")
    sheet.table(
        ("memory of a GPU", *(f"micro-batch {micro}" for micro in micros)),
        [(amount(size, "B"), *cells) for size, cells in by_memory.items()],
        f"Stage 3 pays from so many parameters on ({result['assumptions']['gpus']:,} GPUs): up to there stage 2 fits",
        right=True,
    )
    from_size = f"{result['stage_3_pays_from'] / 1e9:.3g} G parameters"
    sheet.text(f"At this micro-batch and memory: from {from_size} on.\n")


def _print_scaling(sheet: "Sheet", rows: list[dict[str, Any]]) -> None:
    from sclds.cli.printing import duration

    cells = []
    for row in rows:
        if "samples_per_second" not in row:
            cells.append((f"{row['gpus']:,}", "", "", "", "", row["limit"]))
            continue
        stage = next((s.partition("=")[2] for s in row["settings"] if s.startswith("engine.zero_stage")), "")
        split = f"{row['micro_batch']} × {row['accumulation']}" + (f", stage {stage}" if stage else "")
        cells.append(
            (
                f"{row['gpus']:,}",
                _pace(row["samples_per_second"]),
                _pace(row["samples_per_second"] / row["gpus"]),
                duration(row["seconds_per_step"]),
                split,
                row["limit"],
            )
        )
    print()
    sheet.table(
        ("GPUs", "samples/s", "a GPU", "a step", "micro-batch × accumulation", "limited by"),
        cells,
        "The best settings for every size of cluster",
        right=True,
    )
    for why in dict.fromkeys(row["why"] for row in rows if "why" in row):
        sheet.text(f"{why[0].upper()}{why[1:]}.")
