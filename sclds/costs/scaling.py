"""One configuration on 1 to 4,096 GPUs, what limits each size, and from which size of model stage 3 pays."""

from pathlib import Path
from typing import Any

from sclds.config import Config
from sclds.config.errors import ConfigError, UserError
from sclds.costs.clusters import Kind, cluster_of
from sclds.costs.own_work import Mix, counts_of
from sclds.costs.search import RESERVED_SHARE, Outcome, at_stage, possible_splits, search
from sclds.costs.stages import largest_model

SIZES = tuple(2**power for power in range(13))
"""GPUs."""
PICTURES = (".png", ".svg", ".pdf")


def scaling(config: Config, kinds: dict[str, Kind], gpu: str, mix: Mix) -> list[dict[str, Any]]:
    """Return the best setting for every size of cluster, or why there is none.

    Returns:
        Rows of `gpus`, `limit` and, where it runs, `samples_per_second`, `efficiency` (of the fewest GPUs' pace a GPU),
        `seconds_per_step`, `days`, `mfu`, `micro_batch`, `accumulation`, `settings`.
    """
    rows: list[dict[str, Any]] = []
    base: float | None = None
    for gpus in SIZES:
        try:
            cluster = cluster_of(kinds, gpu, gpus)
            best = search(config, cluster, mix)[0]
        except ConfigError:
            most = config.batch.global_size // config.batch.group_size
            why = f"{config.batch.global_size} samples in groups of {config.batch.group_size} go to {most} GPUs at most"
            rows.append({"gpus": gpus, "limit": "global batch", "why": why})
            continue
        if not best.fits:
            rows.append({"gpus": gpus, "limit": "memory", "why": best.why})
            continue
        rate = best.samples_per_second
        base = base or rate / gpus
        rows.append({"gpus": gpus, "limit": limit_of(best), "efficiency": rate / gpus / base, **figures(best, config)})
    return rows


def limit_of(outcome: Outcome) -> str:
    """Return what limits a setting: the slowest part of its step, or the global batch, where no GPU could get less."""
    least = outcome.split.accumulation == 1 and outcome.split.micro == outcome.config.batch.group_size
    return "global batch" if least and outcome.cluster.gpus > 1 else outcome.time.limit


def figures(outcome: Outcome, config: Config) -> dict[str, Any]:
    """Return what a row says of a setting."""
    return {
        "samples_per_second": outcome.samples_per_second,
        "seconds_per_step": outcome.time.total,
        "days": outcome.time.total * config.schedule.steps / 86400,
        "mfu": mfu_of(outcome),
        "micro_batch": outcome.split.micro,
        "accumulation": outcome.split.accumulation,
        "settings": outcome.settings(config),
        "bytes_per_gpu": outcome.needed,
    }


def mfu_of(outcome: Outcome) -> float:
    """Return the share of the data sheet's speed that the products take which the model needs, three forwards."""
    work, peak = outcome.work, outcome.cluster.kind.peak(outcome.config.engine.precision)
    return work.model_flops / outcome.time.total / peak


def stage_3_table(config: Config, kinds: dict[str, Kind], gpus: int, mix: Mix) -> list[dict[str, Any]]:
    """Return from how many parameters on stage 3 pays, by the memory of a GPU and by micro-batch.

    Up to there stage 2 fits beside these activations, sends less and asks less of the host.

    Returns:
        Rows of `gpu_bytes`, `micro_batch`, `parameters`; 0 where the activations alone do not fit.
    """
    sizes = sorted({round(kind.memory) for name, kind in kinds.items() if kind.asynchronous})
    splits = possible_splits(config, gpus)
    chosen = list(dict.fromkeys((splits[-1], splits[len(splits) // 2], splits[0])))
    second = at_stage(config, 2)
    rows = []
    kept = {split: sum(counts_of(second, split, mix).activations.values()) for split in chosen}
    for size in sizes:
        for split in chosen:
            free = size * (1 - RESERVED_SHARE) - kept[split]
            most = largest_model(second, gpus, free) if free > 0 else 0
            rows.append({"gpu_bytes": size, "micro_batch": split.micro, "parameters": most})
    return rows


def check_picture(file: Path) -> None:
    """Refuse a file that is no picture by its name.

    Raises:
        UserError: It is none.
    """
    if file.suffix.lower() not in PICTURES:
        raise UserError(f"--plot {file}: give a file whose name ends in {', '.join(PICTURES)}")


def draw(rows: list[dict[str, Any]], title: str, file: Path) -> None:
    """Draw samples/s over GPUs beside perfect scaling, each size in the color of what limits it.

    Args:
        rows: Of `scaling`.
        title: Of the picture.
        file: PNG, SVG or PDF by its name.

    Raises:
        UserError: It cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    run = [row for row in rows if "samples_per_second" in row]
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    if run:
        first = run[0]["samples_per_second"] / run[0]["gpus"]
        gpus = [row["gpus"] for row in run]
        axes.plot(gpus, [first * count for count in gpus], color="#b4b3ab", linewidth=1, label="perfect")
        axes.plot(gpus, [row["samples_per_second"] for row in run], color="#555", linewidth=1, zorder=2)
    for number, limit in enumerate(dict.fromkeys(row["limit"] for row in run)):
        of = [row for row in run if row["limit"] == limit]
        axes.scatter(
            [row["gpus"] for row in of],
            [row["samples_per_second"] for row in of],
            label=limit,
            color=f"C{number}",
            zorder=3,
        )
    axes.set(xscale="log", yscale="log", xlabel="GPUs", ylabel="samples/s")
    axes.set_xticks([row["gpus"] for row in run], [f"{row['gpus']:,}" for row in run], fontsize=7)
    axes.minorticks_off()
    axes.set_title(title, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=150)
    except OSError as fault:
        raise UserError(f"--plot {file} cannot be written: {fault.strerror}") from fault
    finally:
        plt.close(figure)
