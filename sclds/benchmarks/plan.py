"""Plans beside real steps on this machine: what is predicted of small configurations, and what they take.

The processes measure themselves first: matrix products, copies and messages. Then six configurations take real steps
in turn, on real data that was read before. Three factors (of the operations of products, of bytes, of the host) are
fitted on four of them; the other two judge. All times are of the processor, all threads of a process together, so that
other work on the machine counts little; by the clock an idle machine with a core a process takes the same and what
processes wait.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sclds.batch.split import split_batch
from sclds.benchmarks.rows import Row, write
from sclds.config.errors import UserError
from sclds.config.reading import load_config
from sclds.costs.clusters import Cluster, Kind, known_kinds
from sclds.costs.own_work import counts_of, step_work
from sclds.costs.plan import mix_of
from sclds.costs.predict import StepWork, predict
from sclds.train.launch import finish, module_command

WORKER = "sclds.benchmarks.plan_worker"
BASE = ("batch.global_size=64",)
"""Of the quickstart, for all cases."""
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
FACTORS = ("operations", "bytes", "host")
BOUNDS = (0.2, 5.0)
"""Of each factor."""


@dataclass(frozen=True)
class Measured:
    """What one process was measured to do while the others did the same, in seconds of the processor."""

    peak_flops: float
    bandwidth: float
    operand_bandwidth: float
    """Bytes per second at which products read and write their operands."""
    message_seconds: float
    link: float
    step_seconds: Mapping[str, float]
    """Of a step by case, without reading; the median."""


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
        return sum(self.parts(kind).values())

    def parts(self, kind: Kind) -> dict[str, float]:
        """Return seconds of operations of products, of bytes (their operands' too), of the host, and of messages."""
        time = predict(self.work, Cluster("cpu", kind, self.processes, 1))
        at_once = kind.model_copy(update={"memory_bandwidth": float("inf")})
        operations = predict(self.work, Cluster("cpu", at_once, self.processes, 1)).products
        return {
            "operations": operations,
            "bytes": time.device - operations,
            "host": time.host,
            "messages": time.communication,
        }


def compare_plans(steps: int, processes: int, folder: Path) -> list[Row]:
    """Measure the machine and the cases, fit, and write plan.csv, plan.png and plan.yaml.

    Args:
        steps: Of each case that count.
        processes: Of this machine.
        folder: For the files.

    Raises:
        UserError: A run failed.
    """
    measured = measure_machine(steps, processes)
    cases = [case_of(name, measured, processes) for name in CASES]
    kind, factors = fitted(machine_kind(measured), [case for case in cases if case.name not in JUDGES])
    rows = rows_of(cases, kind, measured, factors)
    write(rows, folder, "plan", f"processor seconds of a step, {processes} processes")
    (folder / "plan.yaml").write_text(cluster_yaml(kind), encoding="utf-8")
    return rows


def measure_machine(steps: int, processes: int) -> Measured:
    """Return what a worker on every process finds."""
    settings = {name: [*BASE, *more] for name, more in CASES.items()}
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "found.json"
        finish(
            "the measurement of the machine",
            module_command(WORKER, [json.dumps(settings), str(steps), str(file)], processes),
            processes,
        )
        if not file.is_file():
            raise UserError("the measurement of the machine wrote no figures")
        return Measured(**json.loads(file.read_text(encoding="utf-8")))


def case_of(name: str, measured: Measured, processes: int) -> Case:
    """Return a case with what one process does in a step of it."""
    config = load_config("quickstart", [*BASE, *CASES[name]])
    split, mix = split_batch(config.batch, processes), mix_of(config)
    work = step_work(config, split, mix, counts_of(config, split, mix, fused=False))
    return Case(name, replace(work, core_seconds=0.0), measured.step_seconds[name], processes)


def machine_kind(measured: Measured) -> Kind:
    """Return this machine as a kind, as it was measured."""
    return known_kinds()["cpu"].with_figures(
        "measured: sclds benchmark plan",
        peak_fp32=measured.peak_flops,
        matmul_share=1.0,
        memory_bandwidth=measured.bandwidth,
        bandwidth_share=1.0,
        operand_share=measured.operand_bandwidth / measured.bandwidth,
        node_link=measured.link,
        message_seconds=measured.message_seconds,
        hop_seconds=1e-9,
    )


def fitted(kind: Kind, cases: Sequence[Case], turns: int = 5000) -> tuple[Kind, dict[str, float]]:
    """Return the kind with factors that leave the least sum of squared relative deviations over the cases.

    A step is the sum of its parts here, so that this is linear least squares: each factor in turn takes its best value,
    within bounds, until they no longer move.
    """
    shares = [{part: value / case.seconds for part, value in case.parts(kind).items()} for case in cases]
    parts = {name: np.array([share[name] for share in shares]) for name in FACTORS}
    rest = np.array([share["messages"] for share in shares])
    factors = dict.fromkeys(FACTORS, 1.0)
    for _ in range(turns):
        for name, part in parts.items():
            others = rest + sum(factors[other] * parts[other] for other in FACTORS if other != name)
            factors[name] = float(np.clip(part @ (1 - others) / (part @ part), *BOUNDS))
    return _with(kind, factors), factors


def _with(kind: Kind, factors: Mapping[str, float]) -> Kind:
    return kind.with_figures(
        "fitted: sclds benchmark plan",
        peak_fp32=kind.peak_fp32 / factors["operations"],
        memory_bandwidth=kind.memory_bandwidth / factors["bytes"],
        host_factor=kind.host_factor * factors["host"],
    )


def rows_of(cases: Sequence[Case], kind: Kind, measured: Measured, factors: Mapping[str, float]) -> list[Row]:
    """Return measured and predicted seconds of every case, deviations, and what was measured and fitted."""
    machine = {
        name: getattr(measured, name)
        for name in ("peak_flops", "bandwidth", "operand_bandwidth", "message_seconds", "link")
    }
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
