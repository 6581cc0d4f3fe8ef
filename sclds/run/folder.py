"""The folder of a run: settings, metrics, TensorBoard, checkpoints, set-aside samples, results and the report."""

import json
import tempfile
from pathlib import Path
from typing import Any

from sclds.config import Config
from sclds.config.reading import dump_config
from sclds.run.files import write_atomically


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

    def holds_run(self) -> bool:
        """Return whether a run has written here: settings, metrics, results or set-aside samples."""
        return any(file.is_file() for file in (self.config, self.metrics, self.results, self.quarantine))

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
        write_atomically(self.config, dump_config(config))
        kept = [line for line in read_metrics(self.metrics) if line["step"] <= step]
        write_atomically(self.metrics, "".join(json.dumps(line) + "\n" for line in kept))
        self.quarantine.touch()

    def append_metrics(self, line: dict[str, Any]) -> None:
        """Add one line to the metrics file."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def read_results(self) -> dict[str, Any]:
        """Return what `results.json` holds so far; empty before the first measurement."""
        return json.loads(self.results.read_text(encoding="utf-8")) if self.results.is_file() else {}

    def write_results(self, results: dict[str, Any]) -> None:
        """Replace `results.json`."""
        write_atomically(self.results, json.dumps(results, indent=2) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics file in the order of their steps; empty if there is no file.

    A line that a killed process cut short is left out. A resumed run may repeat steps: the later line counts.
    """
    steps: dict[int, dict[str, Any]] = {}
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            steps[line["step"]] = line
    return [steps[step] for step in sorted(steps)]
