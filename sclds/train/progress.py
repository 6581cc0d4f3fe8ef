"""What a person sees during a run: a bar in a terminal, plain lines elsewhere; ranks other than 0 are quiet."""

import logging
import os
import sys
import time
import warnings
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from sclds.config.errors import UserError
from sclds.run.folder import RunFolder
from sclds.run.terminal import behind, printable

_COUNT_SECONDS = 10.0
"""Between two lines about the same thing."""


def drop_banners(rank: int) -> None:
    """Keep the libraries' warnings, on rank 0 only; drop their announcements."""
    level = logging.WARNING if rank == 0 else logging.ERROR
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in ("DeepSpeed", "transformers", "torch.distributed", "sclds"):
        logger = logging.getLogger(name)
        logger.setLevel(level)
        for handler in logger.handlers:
            handler.setLevel(level)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", module=r"PIL\.")  # on damaged images; the quarantine names those that matter
    warnings.filterwarnings("ignore", message=".*barrier\\(\\): using the device.*")


class _Terminal(Console):
    """What a run prints to; one whose reader is gone, as after the end of a remote shell, must not end the run."""

    def on_broken_pipe(self) -> None:
        """Print to nobody from now on, where rich would end the process."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Reporter:
    """Prints on rank 0: sentences, the state of training, tables.

    Args:
        rank: This process's rank; all but 0 are quiet.
        total_steps: Optimizer steps of the run.
    """

    def __init__(self, rank: int, total_steps: int):
        self.console = _Terminal(
            file=behind(sys.stdout), quiet=rank != 0, soft_wrap=not sys.stdout.isatty(), highlight=False
        )
        self._total = total_steps
        self._bar: Progress | None = None
        self._started: tuple[float, int] | None = None
        self._live = rank == 0 and self.console.is_terminal
        self._counted: tuple[str, float, float, int] | None = None
        """What `count` was told of last, since when, when it was said, and how much was done at first."""

    def say(self, sentence: str) -> None:
        """Print a sentence; where that cannot be written, as into a log on a full disk, nothing more is printed."""
        try:
            self.console.print(printable(sentence), markup=False)
            self.console.file.flush()
        except OSError:
            self.console.on_broken_pipe()

    def start(self, step: int) -> None:
        """Begin to show steps, of which `step` are done."""
        self._started = (time.perf_counter(), step)
        if self._live:
            columns = (
                TextColumn("training"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[state]}"),
            )
            self._bar = Progress(*columns, console=self.console)
            self._bar.start()
            self._bar.add_task("training", total=self._total, completed=step, state="")

    def advance(self, step: int, line: dict[str, Any] | None) -> None:
        """Show that `step` steps are done; `line` is the metrics line where one was written."""
        state = None if line is None else self._describe(step, line)
        if self._bar is not None:
            task = self._bar.tasks[0]
            self._bar.update(task.id, completed=step, state=task.fields["state"] if state is None else state)
        elif state is not None:
            self.say(f"step {step}/{self._total}  {state}")

    def count(self, what: str, done: int, total: int) -> None:
        """Say how far something else than training is, every few seconds and when it is done; with the time left."""
        now = time.perf_counter()
        if self._counted is None or self._counted[0] != what:
            self._counted = (what, now, now, done)
        _, begun, last, first = self._counted
        if now - last < _COUNT_SECONDS or done >= total:
            return
        self._counted = (what, begun, now, first)
        left = (now - begun) / max(1, done - first) * (total - done)
        self.say(f"{what}: {done:,} of {total:,}, {_clock(left)} left")

    def stop(self) -> None:
        """End the progress display."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _describe(self, step: int, line: dict[str, Any]) -> str:
        """Return loss terms, speed and time left in one line."""
        assert self._started is not None
        begun, first = self._started
        left = (time.perf_counter() - begun) / max(1, step - first) * (self._total - step)
        shown = {name: value for name, value in line["loss"].items() if not name.endswith(("accuracy", "alone"))}
        losses = "  ".join(f"{name} {value:.3f}" for name, value in shown.items())
        return f"{losses}  {line['samples_per_second']:.0f} samples/s  {_clock(left)} left"

    def show_results(self, results: dict[str, Any]) -> None:
        """Print what was found on held-out data, each figure beside what chance gives."""
        from sclds.evaluation.tasks import sections
        from sclds.report.console import print_sections

        print_sections(self.console, sections(results))


def write_page_of(folder: RunFolder, reporter: Reporter) -> None:
    """Write a run's page; one that cannot be written is told, and costs nothing but itself."""
    from sclds.report.run_page import write_report

    try:
        write_report(folder.root)
    except (UserError, OSError) as fault:
        reporter.say(f"The page is missing, the results are not: {fault}")


def _clock(seconds: float) -> str:
    """Return a duration as h:mm:ss or m:ss."""
    hours, rest = divmod(int(seconds), 3600)
    minutes, seconds_left = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{seconds_left:02d}" if hours else f"{minutes}:{seconds_left:02d}"
