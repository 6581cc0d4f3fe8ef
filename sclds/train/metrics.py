"""The metrics of a run: one line of `metrics.jsonl`, and TensorBoard scalars, per logged step."""

import math
import time
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

from sclds.batch import Batch
from sclds.config import Config
from sclds.data.tokenizer import Tokenizer
from sclds.report.pictures import masked_inputs
from sclds.run.folder import RunFolder
from sclds.train.distributed import ProcessGroup
from sclds.train.step import StepReport


class MetricsWriter:
    """Sums loss terms over ranks and writes them down; every rank calls it, rank 0 writes.

    Args:
        folder: The run's folder.
        config: The run's configuration.
        group: All processes.
        start_step: Steps done before; TensorBoard drops what lies after them.
    """

    def __init__(self, folder: RunFolder, config: Config, group: ProcessGroup, start_step: int):
        self._folder = folder
        self._config = config
        self._group = group
        self._since = (time.perf_counter(), start_step)
        self._board = None
        if group.rank == 0 and config.log.tensorboard:
            self._board = SummaryWriter(str(folder.tensorboard), purge_step=start_step + 1)

    def due(self, step: int) -> bool:
        """Return whether the step that ends as number `step` is logged: the first, the last, and every few."""
        return step == 1 or step % self._config.log.every == 0 or step == self._config.schedule.steps

    def record(
        self, engine: Any, step: int, report: StepReport, total_seconds: float, skipped: int
    ) -> dict[str, Any] | None:
        """Return the line of step number `step` (from 1) after writing it, or nothing where none is due.

        A step that was skipped is always written; `skipped` counts those of the whole run.
        """
        if not self.due(step) and report.applied:
            return None
        names = sorted(report.terms)
        sums = self._group.all_reduce_sum(torch.stack([report.terms[name].float() for name in names])).tolist()
        norm = float(engine.get_global_grad_norm() or 0.0)
        now = time.perf_counter()
        begun, first = self._since
        self._since = (now, step)
        line = {
            "step": step,
            "loss": dict(zip(names, sums, strict=True)),
            "lr": report.rates["encoders"],
            "learning_rates": report.rates,
            "grad_norm": norm if math.isfinite(norm) else None,
            "samples_per_second": (step - first) * self._config.batch.global_size / (now - begun),
            "seconds": {**report.seconds, "total": total_seconds},
            "skipped": skipped,
        }
        if self._group.rank == 0:
            self._folder.append_metrics(line)
            self._write_scalars(line)
        return line

    def show_inputs(self, step: int, batch: Batch, tokenizer: Tokenizer) -> None:
        """Write masked inputs of step number `step` to TensorBoard, where they are due."""
        every = self._config.log.pictures_every
        if self._board is None or not every or (step != 1 and step % every):
            return
        for shown in masked_inputs(batch, self._config, tokenizer):
            self._board.add_image(f"inputs/{shown.name}", shown.picture, step)
            self._board.add_text(f"inputs/{shown.name}", shown.text, step)

    def close(self) -> None:
        """Flush TensorBoard."""
        if self._board is not None:
            self._board.close()

    def _write_scalars(self, line: dict[str, Any]) -> None:
        if self._board is None:
            return
        step = line["step"]
        for name, value in line["loss"].items():
            self._board.add_scalar(f"loss/{name}", value, step)
        for name, value in line["seconds"].items():
            self._board.add_scalar(f"seconds/{name}", value, step)
        for name, value in line["learning_rates"].items():
            self._board.add_scalar(f"learning_rate/{name}", value, step)
        for name in ("grad_norm", "samples_per_second", "skipped"):
            if line[name] is not None:
                self._board.add_scalar(f"training/{name}", line[name], step)
