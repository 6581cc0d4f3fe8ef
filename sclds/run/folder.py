"""The folder of a run: settings, metrics, TensorBoard, checkpoints, set-aside samples, results and the report."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from sclds.config import Config
from sclds.config.reading import dump_config


class RunFolder:
    """Paths and files of one run; only rank 0 writes.

    Args:
        root: The run folder.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self.config = self.root / "config.yaml"
        self.metrics = self.root / "metrics.jsonl"
        self.results = self.root / "results.json"
        self.quarantine = self.root / "quarantine.jsonl"
        self.report = self.root / "report.html"
        self.tensorboard = self.root / "tensorboard"
        self.checkpoints = self.root / "checkpoints"

    def problems(self) -> list[str]:
        """Return a sentence if the folder cannot be written."""
        existing = self.root
        while not existing.exists():
            existing = existing.parent
        if not existing.is_dir():
            return [f"run_dir={self.root}: {existing} is a file; name another folder"]
        try:
            with tempfile.TemporaryFile(dir=existing):
                return []
        except OSError as fault:
            return [f"run_dir={self.root}: {existing} cannot be written ({fault.strerror}); name another folder"]

    def open(self, config: Config, step: int) -> None:
        """Create the folder, save the resolved settings, and drop metric lines past `step`, where the run goes on."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        _write(self.config, dump_config(config))
        kept = [line for line in read_metrics(self.metrics) if line["step"] <= step]
        _write(self.metrics, "".join(json.dumps(line) + "\n" for line in kept))
        self.quarantine.touch()

    def append_metrics(self, line: dict[str, Any]) -> None:
        """Add one line to the metrics file."""
        with self.metrics.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def read_results(self) -> dict[str, Any]:
        """Return what `results.json` holds so far; empty before the first measurement."""
        return json.loads(self.results.read_text()) if self.results.is_file() else {}

    def write_results(self, results: dict[str, Any]) -> None:
        """Replace `results.json`."""
        _write(self.results, json.dumps(results, indent=2) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics file; one that a crash cut short is left out."""
    lines = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return lines


def _write(path: Path, text: str) -> None:
    """Replace a file at once: a reader sees the old one or the new one."""
    beside = path.with_name(path.name + ".tmp")
    with beside.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
