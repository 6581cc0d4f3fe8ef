"""The metrics of a run: one line of `metrics.jsonl` per logged step, and the same in TensorBoard and trackers."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from sclds.batch import Batch
from sclds.config import Config
from sclds.config.reading import dump_config
from sclds.data.tokenizer import Tokenizer
from sclds.losses.makeup import makeup_of
from sclds.objectives import objectives_in_use
from sclds.objectives.levels import Makeup, trivial_level
from sclds.report.pictures import as_code, masked_inputs
from sclds.run.folder import RunFolder
from sclds.run.goodput import Spent
from sclds.run.metrics import finite, result_scalars, scalars_of
from sclds.train.board import Board
from sclds.train.distributed import ProcessGroup
from sclds.train.step import StepReport
from sclds.train.trackers import Tracker, open_trackers


class MetricsWriter:
    """Sums loss terms over ranks and writes them down; every rank calls it, rank 0 writes.

    Args:
        folder: The run's folder.
        config: The run's configuration.
        group: All processes.
        start_step: Steps done before; TensorBoard drops what lies after them.
        say: Is told what cannot be written.
        word_entropy: Of the words that MLM predicts, in nats, where it is known.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: Config,
        group: ProcessGroup,
        start_step: int,
        say: Callable[[str], None],
        word_entropy: float | None = None,
    ):
        self._folder = folder
        self._config = config
        self._group = group
        self._word_entropy = word_entropy
        self._since = (time.perf_counter(), start_step)
        self._boards = _boards(config, folder, start_step + 1, say) if group.rank == 0 else []
        for board in self._boards:
            board.text("settings", as_code(dump_config(config)))

    def due(self, step: int) -> bool:
        """Return whether the step that ends as number `step` is logged: first, last, every few, and where measured."""
        every = self._config.evaluation.every
        measured = bool(every) and step % every == 0
        return step == 1 or step % self._config.log.every == 0 or step == self._config.schedule.steps or measured

    def leave_out(self, seconds: float) -> None:
        """Do not count seconds since the last line, which were not spent on training, to the speed."""
        begun, first = self._since
        self._since = (begun + seconds, first)

    def record(
        self,
        engine: Any,
        step: int,
        report: StepReport,
        total_seconds: float,
        skipped: int,
        micro_batches: Sequence[Batch],
        heldout: Mapping[str, float],
        spent: Spent,
    ) -> dict[str, Any] | None:
        """Return the line of step number `step` (from 1) after writing it, or nothing where none is due.

        A step that was skipped is always written.

        Args:
            engine: After the step.
            step: Its number.
            report: What it did on this rank.
            total_seconds: It took.
            skipped: Steps of the whole run that were.
            micro_batches: It saw on this rank, on the host.
            heldout: What was measured after it, by `heldout/SET/FIGURE`.
            spent: Seconds of this start so far.
        """
        if not self.due(step) and report.applied:
            return None
        names = sorted(report.terms)
        sums = self._group.all_reduce_sum(torch.stack([report.terms[name].float() for name in names])).tolist()
        now = time.perf_counter()
        begun, first = self._since
        self._since = (now, step)
        line = {
            "step": step,
            "loss": dict(zip(names, sums, strict=True)),
            "levels": self._levels(micro_batches),
            "lr": report.rates["encoders"],
            "learning_rates": report.rates,
            "grad_norm": finite(float(engine.get_global_grad_norm() or 0.0)),
            "samples_per_second": (step - first) * self._config.batch.global_size / (now - begun),
            "seconds": {**report.seconds, "total": total_seconds},
            "skipped": skipped,
            "goodput": spent.share(),
            "time": round(time.time(), 3),
            "spent": spent.seconds(),
            **{name: finite(value) for name, value in heldout.items()},
        }
        if self._group.rank == 0:
            self._folder.append_metrics(line)
            for board in self._boards:
                board.scalars(scalars_of(line), step)
        return line

    def _levels(self, micro_batches: Sequence[Batch]) -> dict[str, float]:
        """Return what guessing would give for every loss of this step, as far as that is known."""
        mine = [makeup_of(batch, self._config.data.frames).numbers() for batch in micro_batches]
        numbers = torch.tensor(mine, dtype=torch.float64, device=self._group.device)
        if self._config.losses.negatives == "global_batch":
            numbers = numbers.sum(0, keepdim=True)
        makeups = [Makeup.of_numbers(part) for part in self._group.all_reduce_sum(numbers).tolist()]
        levels = {
            one.name: trivial_level(one, makeups, self._word_entropy) for one in objectives_in_use(self._config.losses)
        }
        return {name: level for name, level in levels.items() if level is not None}

    def show_inputs(self, step: int, batch: Batch, tokenizer: Tokenizer) -> None:
        """Write masked inputs of step number `step` to TensorBoard and trackers, where they are due."""
        every = self._config.log.pictures_every
        if not self._boards or not every or (step != 1 and step % every):
            return
        for shown in masked_inputs(batch, self._config, tokenizer):
            for board in self._boards:
                board.picture(f"inputs/{shown.name}", shown.picture, shown.text, step)

    def close(self) -> None:
        """Write to TensorBoard and trackers what is left."""
        for board in self._boards:
            board.close()


def show_results(config: Config, folder: RunFolder, results: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """Write what a run found at its end to TensorBoard and trackers; rank 0 alone."""
    step = config.schedule.steps
    for board in _boards(config, folder, step + 1, say):
        board.scalars(result_scalars(dict(results)), step)
        board.close()


def _boards(config: Config, folder: RunFolder, purge_step: int, say: Callable[[str], None]) -> list[Board | Tracker]:
    """Open everything that shows what a run logs."""
    own = [Board(folder.tensorboard, purge_step, say)] if config.log.tensorboard else []
    return [*own, *open_trackers(config, folder, say)]
