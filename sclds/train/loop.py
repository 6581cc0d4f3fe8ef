"""A run from its first step, or its newest checkpoint, to its results."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

from sclds.batch import Batch
from sclds.batch.split import Split, split_batch
from sclds.config import Config
from sclds.config.errors import SharedError, UserError
from sclds.costs.peak import machine_profile
from sclds.data.quarantine import Quarantine
from sclds.data.storage.shards import left_out_sentences
from sclds.data.tokenizer import Tokenizer, load_tokenizer
from sclds.machine.implementations import choose, use
from sclds.run.folder import RunFolder
from sclds.train.checkpoint import (
    convert_to_universal,
    load_checkpoint,
    needs_conversion,
    save_checkpoint,
)
from sclds.train.data_wait import DataWait
from sclds.train.distributed import ProcessGroup
from sclds.train.engine import build_engine, count_parameters
from sclds.train.guards import Guards
from sclds.train.interrupt import StopRequest
from sclds.train.metrics import MetricsWriter
from sclds.train.progress import Reporter
from sclds.train.resume import sound_checkpoint
from sclds.train.step import train_step

MAX_SKIPPED_IN_A_ROW = 10
"""A run stops when this many steps on end had a loss or gradient that is not finite."""


class Run:
    """One process's part of a run.

    Args:
        config: The validated configuration.
        group: All processes.
        folder: Where the run writes.
        reporter: What a person sees.
        guards: What ends the run when it waits too long, or when another job writes into its folder.
    """

    def __init__(
        self,
        config: Config,
        group: ProcessGroup,
        folder: RunFolder,
        reporter: Reporter,
        guards: Guards,
    ):
        self.config = config
        self.group = group
        self.folder = folder
        self.reporter = reporter
        self.guards = guards
        self.implementations = choose(config)
        use(self.implementations)
        self.split: Split = split_batch(config.batch, group.world_size)
        self.tokenizer: Tokenizer = load_tokenizer(config.data.tokenizer)
        self.checkpoint = sound_checkpoint(folder.checkpoints, group, reporter.say)
        self.universal = self._prepare_checkpoint()
        self.engine = build_engine(config, self.tokenizer, self.split, group, self.universal)
        self.step = 0
        self.saved_step = -1

    def train(self) -> bool:
        """Train to the last step; return False if a signal ended the run before."""
        self._resume()
        self._describe()
        self._measure_start()
        metrics = MetricsWriter(self.folder, self.config, self.group, self.step)
        batches = self._batches()
        finished = True
        skipped = 0
        waits = DataWait()
        self.reporter.start(self.step)
        try:
            with StopRequest() as stop:
                while self.step < self.config.schedule.steps:
                    begun = time.perf_counter()
                    with self.guards.limit("data", "step"):
                        micro_batches = self._fetch(batches, stop)
                    if micro_batches is None:
                        finished = False
                        break
                    fetched = time.perf_counter()
                    measure = metrics.due(self.step + 1)
                    with self.guards.limit("the step", "step"):
                        report = train_step(
                            self.engine, micro_batches, self.step, self.config, self.split, self.group, measure
                        )
                    report.seconds["data"] += fetched - begun  # until every rank has its data: they fetch together
                    self.step += 1
                    skipped = self._count_skipped(report.applied, skipped)
                    total = time.perf_counter() - begun
                    if (slow := waits.add(fetched - begun, total)) is not None:
                        self.reporter.say(slow)
                    line = metrics.record(self.engine, self.step, report, total)
                    metrics.show_inputs(self.step, micro_batches[0], self.tokenizer)
                    self.reporter.advance(self.step, line)
                    if self.step % self.config.checkpoint.every == 0:
                        self._save()
                self._save()  # inside the block: a signal while this is written must not end it
        finally:
            self.reporter.stop()
            metrics.close()
        return finished

    def finish(self) -> None:
        """Measure on held-out data, write results and the report, and show them."""
        results = self.folder.read_results()
        if self.config.data.heldout:
            self.reporter.say(f"Measuring {' and '.join(self.config.evaluation.tasks)} on held-out data")
            measured = self._measure()
            if "losses" in measured:
                results["losses"] = results.get("losses", {}) | {"final": measured.pop("losses")}
            results |= measured
        results["steps"] = self.step
        results["profile"] = machine_profile(self.config, self.group.world_size)
        if self.group.rank == 0:
            from sclds.report.run_page import write_report

            self.folder.write_results(results)
            write_report(self.folder.root)
        self.reporter.show_results(results)
        self.group.barrier()

    def _prepare_checkpoint(self) -> bool:
        """Convert the newest checkpoint if another number of processes wrote it; return whether that was so."""
        checkpoint = self.checkpoint
        self.group.barrier()
        if checkpoint is None or not needs_conversion(checkpoint, self.config, self.group.world_size):
            return False
        self.reporter.say(
            f"Converting {checkpoint.folder} from {checkpoint.world_size} processes to {self.group.world_size}"
        )
        if self.group.rank == 0:
            convert_to_universal(checkpoint)
        self.group.barrier()
        return True

    def _resume(self) -> None:
        """Go on from the newest complete checkpoint, if there is one."""
        if self.checkpoint is not None:
            load_checkpoint(self.engine, self.checkpoint, self.universal)
            self.step = self.saved_step = self.checkpoint.step
            self.reporter.say(f"Resuming after step {self.step} from {self.checkpoint.folder}")
        if self.group.rank == 0:
            self.folder.open(self.config, self.step)
        self.group.barrier()

    def _describe(self) -> None:
        """Print what this run uses."""
        engine, split = self.config.engine, self.split
        self.reporter.say(
            f"Model        {count_parameters(self.engine.module) / 1e6:.2f} M parameters\n"
            f"Batch        {self.config.batch.global_size} = {split.micro} samples × {split.world_size} processes × "
            f"{split.accumulation} accumulation steps\n"
            f"DeepSpeed    ZeRO stage {engine.zero_stage}, {engine.precision}, on {self.group.device.type}\n"
            f"Kernels      {self.implementations.kernels};  attention {self.implementations.attention};  "
            f"norms {self.implementations.norms};  "
            f"AdamW {self.config.optimizer.implementation}\n"
            f"Run folder   {self.folder.root}"
        )

    def _measure_start(self) -> None:
        """Measure the held-out losses of the initial weights, once in a run."""
        due = self.config.data.heldout and "losses" in self.config.evaluation.tasks
        if self.step or not due or "losses" in self.folder.read_results():
            return
        self.reporter.say("Measuring losses on held-out data before the first step")
        losses = self._measure(["losses"])["losses"]
        if self.group.rank == 0:
            self.folder.write_results({"losses": {"initial": losses}})

    def _measure(self, tasks: Sequence[str] | None = None) -> dict[str, Any]:
        """Return what tasks find on held-out data; every rank takes part and gets all."""
        from sclds.evaluation.tasks import evaluate

        quarantine = Quarantine(self.folder.quarantine)
        with self.guards.limit("held-out measurements", "evaluation"):
            return evaluate(self.engine, self.config, self.tokenizer, self.group.device, self.group, quarantine, tasks)

    def _batches(self) -> Iterator[list[Batch]]:
        """Return the training batches from the current step on."""
        from sclds.data.loader import TrainingBatches

        training = TrainingBatches(
            self.config,
            self.tokenizer,
            self.group.rank,
            self.split.world_size,
            self.split.micro,
            self.split.accumulation,
            start_step=self.step,
            quarantine=Quarantine(self.folder.quarantine),
        )
        for sentence in left_out_sentences(training.index):
            self.reporter.say(sentence)
        return iter(training)

    def _fetch(self, batches: Iterator[list[Batch]], stop: StopRequest) -> list[Batch] | None:
        """Return the next step's micro-batches, or nothing if any rank was asked to stop.

        Raises:
            UserError: On every rank, if any rank's data cannot be used.
        """
        fault = self.guards.fault()
        micro_batches: list[Batch] = []
        try:
            micro_batches = next(batches)
        except UserError as error:
            fault = error
        stopping, failing = self.group.any(stop.requested, fault is not None)
        if failing:
            raise fault or SharedError("Another process's data cannot be used; its message says why")
        return None if stopping else micro_batches

    def _count_skipped(self, applied: bool, skipped: int) -> int:
        """Return the number of steps on end that changed nothing; stop the run when they are too many."""
        if applied:
            return 0
        skipped += 1
        self.reporter.say(f"Step {self.step} is skipped: its gradient is not finite ({skipped} in a row)")
        if skipped == MAX_SKIPPED_IN_A_ROW:
            raise SharedError(
                f"Training stopped at step {self.step}: {skipped} steps in a row had a gradient that is not finite. "
                f"Lower optimizer.learning_rate or lengthen schedule.warmup_share; the run goes on from its last "
                f"checkpoint in {self.folder.checkpoints}"
            )
        return skipped

    def _save(self) -> None:
        """Write a checkpoint, unless this step has one."""
        if self.saved_step != self.step:
            with self.guards.limit("a checkpoint", "save"):
                save_checkpoint(
                    self.engine,
                    self.folder.checkpoints,
                    self.step,
                    self.config,
                    self.group,
                    self.config.checkpoint.keep,
                )
            self.saved_step = self.step
