"""What a run folder holds, as far as it can be read: what is damaged or missing is said, the rest is there."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sclds.config import Config
from sclds.config.errors import ConfigError, UserError
from sclds.config.reading import load_config
from sclds.data.quarantine import read_quarantine
from sclds.report.sampled import sample_metrics
from sclds.run.environment import Start
from sclds.run.events import Event, read_events
from sclds.run.folder import MARKS, RunFolder


@dataclass
class Run:
    """What a run folder holds."""

    folder: Path
    config: Config | None = None
    settings: str = ""
    metrics: list[dict[str, Any]] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)
    quarantine: list[dict[str, Any]] = field(default_factory=list)
    starts: Sequence[Start] = ()
    events: Sequence[Event] = ()
    problems: list[str] = field(default_factory=list)
    """A sentence for everything that is damaged."""
    even: frozenset[float] = frozenset()
    """Of a long run, of which not all lines are read, the steps of those at even distances."""
    logged: int = 0
    """Lines that were logged."""

    @property
    def name(self) -> str:
        """What the run is called."""
        return self.config.name if self.config else self.folder.resolve().name

    @property
    def evenly(self) -> list[dict[str, Any]]:
        """Lines of which means and medians may be taken."""
        return [line for line in self.metrics if line["step"] in self.even] if self.even else self.metrics


def read_run(run_dir: Path) -> Run:
    """Read what is there of a run's files.

    Raises:
        UserError: The folder does not exist, or no run wrote it.
    """
    folder = Path(run_dir)
    if not folder.is_dir():
        raise UserError(f"run folder {folder} does not exist; give the folder that holds a run's metrics.jsonl")
    run, files = Run(folder), RunFolder(folder)
    if not files.is_run():
        raise UserError(f"{folder} is not the folder of a run: it holds none of {', '.join(MARKS)}; give one that does")
    _read_config(run, files)
    sampled = sample_metrics(files.metrics, run.problems)
    run.metrics, run.even, run.logged = sampled.lines, sampled.even, sampled.logged
    run.results = files.read_results(run.problems)
    run.starts = files.read_starts(run.problems)
    run.events = read_events(files.events, run.problems)
    run.quarantine = read_quarantine(files.quarantine)
    return run


def _read_config(run: Run, files: RunFolder) -> None:
    """Read the settings; those of another version, or damaged ones, are shown as text, and the rest goes without."""
    if not files.config.is_file():
        return
    try:
        run.settings = files.config.read_bytes().decode("utf-8", "replace")
        run.config = load_config(files.config)
    except ConfigError as fault:
        more = f", and {len(fault.problems) - 1} more" if len(fault.problems) > 1 else ""
        run.problems.append(f"config.yaml cannot be used: {fault.problems[0]}{more}")
    except (OSError, ValueError) as fault:
        run.problems.append(f"config.yaml cannot be read: {' '.join(str(fault).split())}")
