"""What a run measures on its held-out sets: before the first step, between steps, and at the end."""

from collections.abc import Sequence
from typing import Any

from sclds.config import Config
from sclds.data.quarantine import Quarantine
from sclds.data.tokenizer import Tokenizer
from sclds.run.folder import RunFolder
from sclds.train.distributed import ProcessGroup
from sclds.train.interrupt import StopRequest
from sclds.train.progress import Reporter


class _AskedToStop(Exception):
    """Ends a measurement, on all ranks after the same batch."""


class HeldoutMeasurements:
    """Measures with the weights that the engine has; every rank calls it and gets all.

    A stop does not wait for a measurement: that is given up, which is said, and the run stops as between steps.

    Nothing that training draws depends on it: held-out samples are read by readers of their own, every draw is keyed,
    and the model goes back to its mode.

    Args:
        config: The run.
        engine: Holds the model.
        tokenizer: The run's.
        group: All processes.
        folder: The run's.
        reporter: What a person sees.
        stop: Whether this rank was asked to.
    """

    def __init__(
        self,
        config: Config,
        engine: Any,
        tokenizer: Tokenizer,
        group: ProcessGroup,
        folder: RunFolder,
        reporter: Reporter,
        stop: StopRequest,
    ):
        self._config, self._engine, self._tokenizer = config, engine, tokenizer
        self._group, self._folder, self._reporter, self._stop = group, folder, reporter, stop
        self._whole: tuple[int, dict[str, Any]] | None = None

    def measure_start(self) -> None:
        """Measure the losses of the initial weights, once in a run, and write them into `results.json`."""
        if not self._config.data.heldout or "losses" not in self._config.evaluation.tasks:
            return
        problems: list[str] = []
        before = self._folder.read_results(problems)
        [done] = self._group.any("losses" in before)
        for problem in problems:
            self._reporter.say(problem)
        if done:
            return
        from sclds.evaluation.record import recorded_start

        self._reporter.say("Measuring losses on held-out data before the first step")
        measured = self._measure(["losses"])
        if measured is not None and self._group.rank == 0:
            self._folder.write_results(recorded_start(measured, self._config))

    def measure_between(self, step: int) -> dict[str, float]:
        """Return every figure of the held-out sets after `step` steps, by `heldout/SET/FIGURE`; none after a stop."""
        from sclds.evaluation.tasks import figures

        share = self._config.evaluation.share
        measured = self._measure(None, share)
        if measured is None:
            return {}
        if share == 1:
            self._whole = (step, measured)
        return figures(measured)

    def measure_end(self, step: int) -> dict[str, Any] | None:
        """Return what is to stand in `results.json` after `step` steps; None if the run was asked to stop before."""
        problems: list[str] = []
        before = self._folder.read_results(problems)
        for problem in problems:
            self._reporter.say(problem)
        from sclds.evaluation.answers import PREDICTIONS
        from sclds.evaluation.record import recorded
        from sclds.evaluation.tasks import has_something_to_measure

        if not has_something_to_measure(self._config):
            return before | {"steps": step}

        if self._whole is None or self._whole[0] != step:
            self._reporter.say(f"Measuring {' and '.join(self._config.evaluation.tasks)} on held-out data")
            measured = self._measure()
            if measured is None:
                return None
            self._whole = (step, measured)
        if self._group.rank == 0:
            self._folder.write_predictions(self._whole[1].get(PREDICTIONS, {}))
        return recorded(self._whole[1], self._config, step, before)

    def _measure(self, tasks: Sequence[str] | None = None, share: float = 1.0) -> dict[str, Any] | None:
        """Return what `evaluate` does; None, which is said, if any rank was asked to stop before it was done."""
        from sclds.evaluation.tasks import evaluate

        quarantine, device = Quarantine(self._folder.quarantine), self._group.device
        arguments = (self._engine, self._config, self._tokenizer, device, self._group, quarantine, tasks, share)
        try:
            return evaluate(*arguments, self._progress)
        except _AskedToStop:
            self._reporter.say("This measurement is given up: the run was asked to stop")
            return None

    def _progress(self, what: str, done: int, total: int) -> None:
        """Say how far a measurement is, and end it on all ranks if one was asked to stop; they call it together."""
        self._reporter.count(what, done, total)
        if done < total and any(self._group.any(self._stop.requested)):
            raise _AskedToStop
