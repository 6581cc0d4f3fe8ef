"""Plans beside real runs on this machine: what is predicted of small configurations, and what they take.

The machine is measured first: matrix products, copies and messages of all processes at once, and what reading costs.
Then six configurations train. Three factors (of products, of element-wise operators, of the host) are fitted on four
of them; the other two judge. Steps are the fastest of a run, since other work on the machine only adds to them.
"""

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sclds.batch.split import split_batch
from sclds.benchmarks.rows import Row, write
from sclds.config import Config
from sclds.config.errors import UserError
from sclds.config.reading import load_config
from sclds.costs.clusters import Cluster, Kind, known_kinds
from sclds.costs.own_work import step_work
from sclds.costs.plan import mix_of
from sclds.costs.predict import StepWork, predict
from sclds.run.metrics import read_metrics
from sclds.train.launch import finish, module_command, pretrain

WORKER = "sclds.benchmarks.plan_worker"
BASE = (
    "data.heldout=[]",
    "batch.global_size=64",
    "batch.max_micro_size=32",
    "log.every=1",
    "log.pictures_every=0",
    "log.tensorboard=false",
    "guards.memory_every=0",
)
"""Of the quickstart, for all cases: no measurements beside the steps."""
WIDE = tuple(f"model.{part}.{key}" for part in ("vision", "text", "fusion") for key in ("width=256", "heads=4"))
CASES: Mapping[str, tuple[str, ...]] = {
    "quickstart": (),
    "wide": WIDE,
    "deep": ("model.vision.layers=8", "model.text.layers=4", "model.fusion.layers=4", "engine.zero_stage=1"),
    "large images": ("data.image_size=128", "data.video_size=128", "engine.zero_stage=2"),
    "small micro-batches": ("batch.max_micro_size=16", "engine.zero_stage=1"),
    "wide and deep": (*WIDE, "model.vision.layers=6", "model.fusion.layers=3", "engine.zero_stage=2"),
}
"""What each case sets over the quickstart and `BASE`."""
JUDGES = ("small micro-batches", "wide and deep")
"""The cases that no factor is fitted on."""
FACTORS = ("products", "element-wise", "host")


@dataclass(frozen=True)
class Measured:
    """What this machine was measured to do, all processes at once; of one process."""

    peak_flops: float
    bandwidth: float
    message_seconds: float
    link: float
    core_seconds: Mapping[str, float]
    """Of reading and decoding a sample, by case."""


@dataclass(frozen=True)
class Case:
    """A configuration that was predicted and run."""

    name: str
    work: StepWork
    seconds: float
    """Of a step."""
    processes: int

    def predicted(self, kind: Kind) -> float:
        """Return the predicted seconds of a step on a kind of machine."""
        return predict(self.work, Cluster("cpu", kind, self.processes, 1)).total


def compare_plans(steps: int, processes: int, folder: Path) -> list[Row]:
    """Measure the machine and the cases, fit, and write plan.csv, plan.png and plan.yaml.

    Args:
        steps: Of each run; the first two do not count.
        processes: Of this machine.
        folder: For the files.

    Raises:
        UserError: A run failed.
    """
    configs = {name: load_config("quickstart", [*BASE, *settings]) for name, settings in CASES.items()}
    measured = measure_machine(processes)
    cases = [
        case_of(name, config, measured, processes, _run(name, steps, processes)) for name, config in configs.items()
    ]
    kind, factors = fitted(machine_kind(measured), [case for case in cases if case.name not in JUDGES])
    rows = rows_of(cases, kind, measured, factors)
    write(rows, folder, "plan", f"seconds of a step, predicted and measured, {processes} processes, cpu")
    (folder / "plan.yaml").write_text(cluster_yaml(kind), encoding="utf-8")
    return rows


def measure_machine(processes: int) -> Measured:
    """Return what a worker on every process finds."""
    settings = {name: [*BASE, *more] for name, more in CASES.items()}
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "found.json"
        finish(
            "the measurement of the machine",
            module_command(WORKER, [json.dumps(settings), str(file)], processes),
            processes,
        )
        if not file.is_file():
            raise UserError("the measurement of the machine wrote no figures")
        return Measured(**json.loads(file.read_text(encoding="utf-8")))


def _run(name: str, steps: int, processes: int) -> float:
    """Train a case, and return the seconds of its fastest step."""
    with tempfile.TemporaryDirectory() as scratch:
        settings = [
            *BASE,
            *CASES[name],
            f"schedule.steps={steps}",
            f"run_dir={scratch}/run",
            f"checkpoint.every={steps}",
        ]
        pretrain(f"the case {name}", "quickstart", settings, processes)
        lines = read_metrics(Path(scratch) / "run" / "metrics.jsonl")
    config = load_config("quickstart", settings)
    paces = [line["samples_per_second"] for line in lines if line.get("samples_per_second")][2:]
    if not paces:
        raise UserError(f"the case {name} measured no pace: give more --steps")
    return config.batch.global_size / max(paces)


def case_of(name: str, config: Config, measured: Measured, processes: int, seconds: float) -> Case:
    """Return a case with what one process does in a step of it."""
    split = split_batch(config.batch, processes)
    work = step_work(config, split, mix_of(config), fused=False)
    return Case(name, replace(work, core_seconds=work.samples * measured.core_seconds[name]), seconds, processes)


def machine_kind(measured: Measured) -> Kind:
    """Return this machine as a kind, as it was measured."""
    return known_kinds()["cpu"].with_figures(
        "measured: sclds benchmark plan",
        peak_fp32=measured.peak_flops,
        matmul_share=1.0,
        memory_bandwidth=measured.bandwidth,
        bandwidth_share=1.0,
        node_link=measured.link,
        message_seconds=measured.message_seconds,
        hop_seconds=1e-9,
    )


def fitted(kind: Kind, cases: Sequence[Case], turns: int = 30) -> tuple[Kind, dict[str, float]]:
    """Return the kind with factors that leave the least sum of squared logarithms over the cases.

    Each factor is searched between a third and three, one after the other.
    """
    factors = dict.fromkeys(FACTORS, 1.0)
    grid = [3 ** (step / 60) for step in range(-60, 61)]
    for _ in range(turns):
        for name in FACTORS:
            tried = {value: _error(_with(kind, factors | {name: value}), cases) for value in grid}
            factors[name] = min(tried, key=lambda value: tried[value])
    return _with(kind, factors), factors


def _with(kind: Kind, factors: Mapping[str, float]) -> Kind:
    return kind.with_figures(
        "fitted: sclds benchmark plan",
        peak_fp32=kind.peak_fp32 / factors["products"],
        memory_bandwidth=kind.memory_bandwidth / factors["element-wise"],
        host_factor=kind.host_factor * factors["host"],
    )


def _error(kind: Kind, cases: Sequence[Case]) -> float:
    return sum(math.log(case.predicted(kind) / case.seconds) ** 2 for case in cases)


def rows_of(cases: Sequence[Case], kind: Kind, measured: Measured, factors: Mapping[str, float]) -> list[Row]:
    """Return measured and predicted seconds of every case, deviations, and what was measured and fitted."""
    machine = {name: getattr(measured, name) for name in ("peak_flops", "bandwidth", "message_seconds", "link")}
    config, versions = json.dumps({"processes": cases[0].processes}), f"torch {torch.__version__}"

    def row(provider: str, metric: str, value: float) -> Row:
        return Row(provider, metric, value, value, value, 1, config, "cpu", versions)

    rows = []
    for case in cases:
        predicted = case.predicted(kind)
        name = f"{case.name} (judges)" if case.name in JUDGES else case.name
        rows += [
            row(name, "measured_seconds", case.seconds),
            row(name, "predicted_seconds", predicted),
            row(name, "deviation", predicted / case.seconds - 1),
        ]
    rows += [row("machine", name, value) for name, value in machine.items()]
    return rows + [row("fitted", f"factor_{name}", value) for name, value in factors.items()]


def table(rows: Sequence[Row]) -> str:
    """Return what was predicted and measured as Markdown."""
    found = {(row.provider, row.metric): row.median for row in rows}
    lines = ["| case | measured | predicted | deviation |", "|---|---|---|---|"]
    for name in dict.fromkeys(row.provider for row in rows if row.metric == "measured_seconds"):
        measured, predicted, off = (found[name, f"{m}"] for m in ("measured_seconds", "predicted_seconds", "deviation"))
        lines.append(f"| {name} | {measured:.3f} s | {predicted:.3f} s | {off:+.0%} |")
    judges = [abs(row.median) for row in rows if row.metric == "deviation" and row.provider.endswith("(judges)")]
    factors = ", ".join(f"{row.metric[7:]} {row.median:.2f}" for row in rows if row.provider == "fitted")
    lines.append(f"\nLargest deviation of the two that judge: {max(judges):.0%}. Fitted factors: {factors}.")
    return "\n".join(lines)


def cluster_yaml(kind: Kind) -> str:
    """Return a file for `sclds plan --clusters` that holds this machine as the kind `this-machine`."""
    import yaml

    tree: dict[str, Any] = kind.model_dump(mode="json")
    return yaml.safe_dump({"kinds": {"this-machine": tree}}, sort_keys=False, allow_unicode=True)
