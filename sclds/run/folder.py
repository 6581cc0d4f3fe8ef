"""The folder of a run: settings, metrics, TensorBoard, checkpoints, set-aside samples, results and the report."""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sclds.config import Config
from sclds.config.errors import UserError
from sclds.config.reading import dump_config
from sclds.run.environment import Start, read_starts
from sclds.run.files import remedy, write_atomically
from sclds.run.metrics import read_metrics
from sclds.run.results import sound_results

MARKS = ("metrics.jsonl", "results.json", "environment.json", "quarantine.jsonl")
"""Files by which a folder is known to be that of a run; it has at least one of them."""


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
        self.environment = self.root / "environment.json"
        self.quarantine = self.root / "quarantine.jsonl"
        self.events = self.root / "events.jsonl"
        self.report = self.root / "report.html"
        self.trackers = self.root / "trackers.json"
        self.tensorboard = self.root / "tensorboard"
        self.checkpoints = self.root / "checkpoints"
        self.collectives = self.root / "flight_recorder"

    def problems(self) -> list[str]:
        """Return a sentence if the folder cannot be written."""
        return self._problems_of(self.root) or self._problems_of(self.checkpoints)

    def _problems_of(self, folder: Path) -> list[str]:
        existing = folder
        while not existing.exists():
            existing = existing.parent
        if not existing.is_dir():
            return [f"run_dir={self.root}: {existing} is a file; name another folder"]
        try:
            with tempfile.TemporaryFile(dir=existing):
                return []
        except OSError as fault:
            return [f"run_dir={self.root}: {existing} cannot be written ({fault.strerror}); name another folder"]

    def is_run(self) -> bool:
        """Return whether anything in the folder says that a run wrote it."""
        return any((self.root / name).is_file() for name in MARKS)

    def open(self, config: Config, step: int) -> list[str]:
        """Create the folder, save the resolved settings, and drop metric lines past `step`, where the run goes on.

        Returns:
            A sentence for everything in the folder that is damaged and therefore dropped.
        """
        problems: list[str] = []
        with _told(self.root):
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            write_atomically(self.config, dump_config(config))
            kept = [line for line in read_metrics(self.metrics, problems) if line["step"] <= step]
            write_atomically(self.metrics, "".join(json.dumps(line) + "\n" for line in kept))
            self.quarantine.touch()
        return problems

    def append_metrics(self, line: dict[str, Any]) -> None:
        """Add one line to the metrics file.

        Raises:
            UserError: It cannot be written; so for the other files of the run.
        """
        with _told(self.metrics), self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def read_results(self, problems: list[str] | None = None) -> dict[str, Any]:
        """Return what `results.json` holds so far; empty before the first measurement.

        Args:
            problems: Is given a sentence for everything that is damaged and therefore left out.
        """
        told: list[str] = []
        found: dict[str, Any] = {}
        try:
            if self.results.is_file():
                found = sound_results(json.loads(self.results.read_bytes()), told)
        except (OSError, ValueError, RecursionError) as fault:
            told.append(f"results.json is left out: it cannot be read ({' '.join(str(fault).split())})")
        if problems is not None:
            problems += told
        return found

    def read_starts(self, problems: list[str] | None = None) -> list[Start]:
        """Return what `environment.json` tells of every start of the run, the first one first; see `read_results`."""
        return read_starts(self.environment, problems)

    def write_starts(self, starts: list[Start]) -> None:
        """Replace `environment.json`."""
        with _told(self.environment):
            write_atomically(self.environment, json.dumps([start.model_dump() for start in starts], indent=1) + "\n")

    def write_results(self, results: dict[str, Any]) -> None:
        """Replace `results.json`."""
        with _told(self.results):
            write_atomically(self.results, json.dumps(results, indent=2) + "\n")

    def write_predictions(self, sets: dict[str, Any]) -> None:
        """Replace `predictions-SET.json` of some sets: the answers to each, as the task's server expects them."""
        for name, answers in sets.items():
            path = self.root / f"predictions-{name}.json"
            with _told(path):
                write_atomically(path, json.dumps(answers, indent=0) + "\n")


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn a disk's refusal into a sentence."""
    try:
        yield
    except OSError as fault:
        raise UserError(
            f"{path} cannot be written ({fault.strerror or fault}): {remedy(fault.errno)}; the same command goes on "
            f"from the last checkpoint"
        ) from fault
