"""ZeRO's stages beside torch alone: what the engine itself takes, at the base model's depth and next to no width.

At width 64 and four small samples the products take next to nothing, so that what is left is what the host does for
every module, parameter and message; a GPU waits for it wherever it is longer than what the GPU computes.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from sclds.benchmarks.rows import Row, quantiles, write
from sclds.config.errors import UserError
from sclds.train.launch import finish, module_command

WORKER = "sclds.benchmarks.engine_worker"
PHASES = ("forward", "backward", "step")
BASE_DEPTH: dict[str, Any] = {
    "width": 64,
    "vision_layers": 11,
    "text_layers": 12,
    "fusion_layers": 6,
    "image_size": 48,
    "patch": 16,
    "text": (6, 8),
    "padded": 16,
    "batch": 4,
    "vocabulary": 200,
}
"""As many layers as the base model: 453 modules, 560 weights."""
RATIOS = (("stage 1", "plain"), ("stage 3", "plain"), ("stage 3", "stage 1"))
"""Whose time over whose is told."""


def compare_stages(rounds: int, processes: int, folder: Path) -> list[Row]:
    """Measure all stages and torch alone, and write engine.csv and engine.png.

    Args:
        rounds: Timed steps of each.
        processes: Of this machine; only those with a core (or a GPU) each tell anything about time.
        folder: For the files.

    Raises:
        UserError: A process failed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "found.json"
        command = module_command(WORKER, [json.dumps(BASE_DEPTH), str(rounds), str(file)], processes)
        finish("the benchmark of the engine", command, processes)
        if not file.is_file():
            raise UserError("the benchmark of the engine wrote no figures; see the output above")
        found = json.loads(file.read_text(encoding="utf-8"))
    device = "cuda" if torch.cuda.device_count() >= processes else "cpu"
    rows = rows_of(found, processes, device)
    write(rows, folder, "engine", f"a step at width 64, {processes} processes, {device}")
    return rows


def rows_of(found: dict[str, Any], processes: int, device: str) -> list[Row]:
    """Return milliseconds of a step and of its phases, ratios turn by turn, and messages of a step by phase."""
    config = json.dumps(BASE_DEPTH | {"processes": processes})
    versions = f"torch {torch.__version__}"
    steps = {
        name: [1000 * sum(phases) for phases in zip(*of["seconds"].values(), strict=True)] for name, of in found.items()
    }
    rounds = len(next(iter(steps.values())))

    def row(provider: str, metric: str, values: list[float]) -> Row:
        return Row(provider, metric, *quantiles(values), len(values), config, device, versions)

    rows = [row(name, "total_milliseconds", values) for name, values in steps.items()]
    rows += [
        row(name, f"{phase}_milliseconds", [1000 * s for s in of["seconds"][phase]])
        for name, of in found.items()
        for phase in PHASES
    ]
    for name, base in RATIOS:
        ratios = [steps[name][turn] / steps[base][turn] for turn in range(rounds)]
        rows.append(row(f"{name}/{base}", "ratio", ratios))
    for name, of in found.items():
        for phase, sent in of["messages"].items():
            rows += [row(name, f"{phase}_{what}", [count]) for what, count in sent.items()]
    return rows


def tables(rows: list[Row]) -> str:
    """Return times, ratios and messages as Markdown."""
    by_name = {(row.provider, row.metric): row for row in rows}
    providers = [row.provider for row in rows if row.metric == "total_milliseconds"]
    lines = ["| ms, median (20 % to 80 %) | forward | backward | step | all |", "|---|---|---|---|---|"]
    for provider in providers:
        cells = [by_name[provider, f"{phase}_milliseconds"] for phase in PHASES]
        whole = by_name[provider, "total_milliseconds"]
        medians = " | ".join(f"{cell.median:.0f}" for cell in cells)
        lines.append(f"| {provider} | {medians} | {whole.median:.0f} ({whole.q20:.0f} to {whole.q80:.0f}) |")
    ratios = [row for row in rows if row.metric == "ratio"]
    lines.append("\n" + "; ".join(f"{r.provider} {r.median:.2f} ({r.q20:.2f} to {r.q80:.2f})" for r in ratios) + "\n")
    lines += ["| messages: gathers, others | forward | backward | step |", "|---|---|---|---|"]
    for provider in providers:
        counts = [
            f"{by_name[provider, f'{phase}_gathers'].median:.0f}, {by_name[provider, f'{phase}_others'].median:.0f}"
            for phase in PHASES
        ]
        lines.append(f"| {provider} | {' | '.join(counts)} |")
    return "\n".join(lines)
