"""What a measured profile says of a kind of machine: figures that replace those of the table, and factors of the rest.

`sclds profile` writes profile.json. A plan takes the measured peak of matrix products as it is. What the host and the
device took beyond what is predicted of the very run that was profiled become factors of every prediction: the host's by
its own time for forward and backward, the device's so that the step's time comes out.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sclds.batch.split import split_batch
from sclds.config import Config
from sclds.config.errors import UserError
from sclds.config.reading import override_section
from sclds.costs.clusters import Cluster, Kind, cluster_of
from sclds.costs.own_work import Mix, counts_of, step_work
from sclds.costs.predict import predict

FILE = "profile.json"
VERSION = 1
ABOVE_SHEET = 1.05
"""A measured peak this many times the data sheet's is another kind's."""
LARGEST_FACTOR = 100.0


def read_profile(path: Path) -> dict[str, Any]:
    """Return a profile.

    Args:
        path: The file, or the folder that it lies in.

    Raises:
        UserError: There is none, it is no profile of this version, or nothing in it was measured.
    """
    file = path / FILE if path.is_dir() else path
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as fault:
        raise UserError(f"--calibrate {path}: there is no {file.name}; `sclds profile` writes one") from fault
    except (OSError, ValueError) as fault:
        raise UserError(f"--calibrate {file} cannot be read as JSON: {fault}") from fault
    if not isinstance(tree, dict) or tree.get("kind") != "profile":
        raise UserError(f"--calibrate {file} is no profile; `sclds profile` writes one")
    if tree.get("version") != VERSION:
        raise UserError(f"--calibrate {file} has version {tree.get('version')}; this program reads version {VERSION}")
    lacking = [key for key in ("environment", "config", "variants") if not tree.get(key)]
    if lacking:
        raise UserError(f"--calibrate {file} holds no {', '.join(lacking)}; write it again with `sclds profile`")
    return tree


def calibrated(
    kinds: dict[str, Kind], name: str, path: Path, mix_of: Callable[[Config], Mix]
) -> tuple[dict[str, Kind], list[str]]:
    """Return the known kinds with one of them as a profile measured it, and sentences on what was taken from it.

    Args:
        kinds: All that are known.
        name: Of the kind that the profile ran on.
        path: Of the profile, or of its folder.
        mix_of: Returns what the samples of a run are like.

    Raises:
        UserError: The profile cannot be used, or is of another kind of machine.
    """
    tree = read_profile(path)
    variant = _measured_variant(tree, path)
    environment, kind = tree["environment"], kinds[name]
    if (environment.get("device") == "cpu") != (not kind.asynchronous):
        raise UserError(
            f"--calibrate {path} ran on {environment.get('device')}, which is no {name}: give its own --gpu"
        )
    config = override_section(Config, tree["config"], list(variant.get("overrides") or []))
    processes = int(environment["processes"])
    hosts = {str(host.get("name", host)) if isinstance(host, dict) else str(host) for host in environment["hosts"]}
    source = f"measured: {path}"
    kind, told = _with_peak(kind, name, config, float(variant["peak_flops"]) / processes, source)
    cluster = cluster_of(kinds | {name: kind}, name, processes, len(hosts) if processes % len(hosts) == 0 else None)
    kind, more = _with_factors(cluster, config, variant, mix_of(config), source)
    return kinds | {name: kind}, [f"Calibrated by {path}, {config.name} on {processes} × {name}:", *told, *more]


def _measured_variant(tree: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the variant as configured, else the first that was measured."""
    measured = [v for v in tree["variants"] if v.get("samples_per_second") and v.get("peak_flops")]
    if not measured:
        raise UserError(f"--calibrate {path} holds no variant with samples_per_second and peak_flops")
    return next((v for v in measured if v.get("name") == "configured"), measured[0])


def _with_peak(kind: Kind, name: str, config: Config, peak: float, source: str) -> tuple[Kind, list[str]]:
    """Take the measured peak of matrix products: as a share of the data sheet's, or itself on a CPU."""
    precision = config.engine.precision
    if not kind.asynchronous:
        found = kind.with_figures(source, matmul_share=1.0, **{f"peak_{precision}": peak})
        return found, [f"- peak of matrix products {peak / 1e9:.3g} GFLOP/s a process"]
    sheet = kind.peak(precision)
    if peak > ABOVE_SHEET * sheet:
        raise UserError(
            f"the profile measured {peak / 1e12:.0f} TFLOP/s a GPU, more than the {sheet / 1e12:.0f} of {name}'s data "
            "sheet: give the --gpu that it ran on"
        )
    share = min(1.0, peak / sheet)
    return kind.with_figures(source, matmul_share=share), [
        f"- matrix products reach {share:.0%} of the data sheet's peak"
    ]


def _with_factors(
    cluster: Cluster, config: Config, variant: dict[str, Any], mix: Mix, source: str
) -> tuple[Kind, list[str]]:
    """Take factors of host and device from the profiled run's own times."""
    split, kind, told = split_batch(config.batch, cluster.gpus), cluster.kind, []
    counts = counts_of(config, split, mix, kind.asynchronous)
    work, step = step_work(config, split, mix, counts), config.batch.global_size / variant["samples_per_second"]
    if kind.asynchronous and variant.get("host_seconds"):
        asking = work.host_seconds * (1 - counts.launches["engine"] / sum(counts.launches.values()))
        factor = float(variant["host_seconds"]) / asking
        kind = kind.with_figures(source, host_factor=factor)
        told.append(f"- the host takes {factor:.2f} of its predicted time")

    def total(factor: float) -> float:
        slower = kind.model_copy(update={"device_factor": factor})
        return predict(work, Cluster(cluster.name, slower, cluster.gpus, cluster.nodes)).total

    least, most = 1 / LARGEST_FACTOR, LARGEST_FACTOR
    if not total(least) < step < total(most):
        return kind, [*told, "- nothing of the device: something else decided how long the step took"]
    for _ in range(60):
        middle = (least * most) ** 0.5
        least, most = (middle, most) if total(middle) < step else (least, middle)
    told.append(f"- the device takes {most:.2f} of its predicted time, so that a step takes the measured {step:.3g} s")
    return kind.with_figures(source, device_factor=most), told
