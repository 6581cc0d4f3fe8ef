"""A run from its first step, or its newest checkpoint, to its results."""

import time
from collections.abc import Iterator
from typing import Any

from sclds.batch import Batch
from sclds.batch.split import Split, split_batch
from sclds.config import Config
from sclds.config.errors import SharedError, UserError
from sclds.costs.peak import machine_profile
from sclds.data.quarantine import Quarantine
from sclds.data.storage.shards import left_out_sentences
from sclds.data.tokenizer import Tokenizer, load_tokenizer
from sclds.data.words import word_entropy
from sclds.evaluation.losses import loss_titles
from sclds.machine.implementations import choose, use
from sclds.run.folder import RunFolder
from sclds.run.health import Health, health_of
from sclds.run.metrics import read_metrics
from sclds.train.agreement import refuse_strangers
from sclds.train.best import BestCheckpoint
from sclds.train.checkpoint import (
    convert_to_universal,
    load_checkpoint,
    needs_conversion,
    save_checkpoint,
)
from sclds.train.data_wait import DataWait
from sclds.train.deepspeed_settings import overriding
from sclds.train.distributed import ProcessGroup
from sclds.train.engine import build_engine, count_parameters
from sclds.train.guard import SkipGuard
from sclds.train.guards import Guards
from sclds.train.heldout import HeldoutMeasurements
from sclds.train.interrupt import StopRequest
from sclds.train.metrics import MetricsWriter
from sclds.train.progress import Reporter, write_page_of
from sclds.train.record import StartRecord
from sclds.train.resume import sound_checkpoint
from sclds.train.step import train_step
from sclds.train.task import prepare_task


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
        refuse_strangers(config, group)
        self.implementations = choose(config)
        use(self.implementations)
        self.split: Split = split_batch(config.batch, group.world_size)
        self.tokenizer: Tokenizer = load_tokenizer(config.data.tokenizer)
        self.checkpoint = sound_checkpoint(folder.checkpoints, group, reporter.say)
        if config.task is not None and self.checkpoint is None:
            prepare_task(config, group)
        self.universal = self._prepare_checkpoint()
        model = config.model if self.checkpoint is None else config.model.model_copy(update={"init_from": None})
        start = config.model_copy(update={"model": model})
        self.engine = build_engine(start, self.tokenizer, self.split, group, self.universal)
        self.step = 0
        self.saved_step = -1
        self.guard = SkipGuard(config.optimizer.max_skipped_in_a_row, reporter.say)
        self.heldout = HeldoutMeasurements(config, self.engine, self.tokenizer, group, folder, reporter)
        self.record: StartRecord | None = None
        self.best: BestCheckpoint | None = None
        self.health = Health(config.schedule.steps, config.log.stuck_share)

    def train(self) -> bool:
        """Train to the last step; return False if a signal ended the run before."""
        self._resume()
        self._describe()
        self.record = StartRecord(
            self.folder, self.group, count_parameters(self.engine.module), self.step, self.reporter.say
        )
        if not self.step:
            with self.guards.limit("held-out measurements", "evaluation"):
                self.heldout.measure_start()
        lines = read_metrics(self.folder.metrics) if self.group.rank == 0 else []
        self.best = BestCheckpoint(self.config.checkpoint.best, self.group, lines, self.folder.checkpoints)
        self.health = health_of(lines, self.config.schedule.steps, self.config.log.stuck_share)
        finished = self._take_steps()
        if not finished:
            self.record.update(self.step, "stopped")
        return finished

    def _take_steps(self) -> bool:
        """Take steps up to the last one, or to a stop signal; return whether the last was reached."""
        metrics = MetricsWriter(
            self.folder, self.config, self.group, self.step, self.reporter.say, self._word_entropy()
        )
        batches = self._batches()
        finished = True
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
                    self.guard.count(self.step, report.applied)
                    total = time.perf_counter() - begun
                    if (slow := waits.add(fetched - begun, total)) is not None:
                        self.reporter.say(slow)
                    measured = self._measure_between(metrics)
                    line = metrics.record(
                        self.engine, self.step, report, total, self.guard.total, micro_batches, measured
                    )
                    metrics.show_inputs(self.step, micro_batches[0], self.tokenizer)
                    self.reporter.advance(self.step, line)
                    self._judge(line)
                    self.guard.stop_if_stuck(self.step)
                    better = bool(measured) and self.best is not None and self.best.improved(self.step, measured)
                    if better or self.step % self.config.checkpoint.every == 0:
                        self._save()
                self._save()  # inside the block: a signal while this is written must not end it
        finally:
            self.reporter.stop()
            metrics.close()
        return finished

    def fail(self, fault: Exception) -> None:
        """Note in the run folder that this start failed."""
        if self.record is not None:
            self.record.fail(self.step, str(fault).partition("\n")[0] or type(fault).__name__)

    def finish(self) -> None:
        """Measure on held-out data, write results and the report, and show them."""
        with self.guards.limit("held-out measurements", "evaluation"):
            results = self.heldout.measure_end(self.step)
        results["profile"] = machine_profile(self.config, self.group.world_size)
        if self.group.rank == 0:
            self.folder.write_results(results)
        if self.record is not None:
            self.record.update(self.step, "finished")
        if self.group.rank == 0:
            write_page_of(self.folder, self.reporter)
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
            self.guard.resume(load_checkpoint(self.engine, self.checkpoint, self.universal))
            self.step = self.saved_step = self.checkpoint.step
            self.reporter.say(f"Resuming after step {self.step} from {self.checkpoint.folder}")
        if self.group.rank == 0:
            for problem in self.folder.open(self.config, self.step):
                self.reporter.say(problem)
        self.group.barrier()

    def _describe(self) -> None:
        """Print what this run uses."""
        engine, split = self.config.engine, self.split
        for line in overriding(engine):
            self.reporter.say(line)
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

    def _word_entropy(self) -> float | None:
        """Return the entropy of words, with which MLM is compared, where rank 0 needs it."""
        if self.group.rank != 0 or self.config.losses.mlm == 0:
            return None
        return word_entropy(self.config, self.tokenizer)

    def _judge(self, line: dict[str, Any] | None) -> None:
        """Say which losses have come to stay at what guessing gives."""
        for stuck in self.health.add(line) if line else ():
            self.reporter.say(stuck.sentence(loss_titles()[stuck.term]))

    def _measure_between(self, metrics: MetricsWriter) -> dict[str, float]:
        """Return what held-out sets give after this step, where that is due, and nothing else."""
        every = self.config.evaluation.every
        if not every or self.step % every:
            return {}
        begun = time.perf_counter()
        with self.guards.limit("held-out measurements", "evaluation"):
            measured = self.heldout.measure_between(self.step)
        metrics.leave_out(time.perf_counter() - begun)
        return measured

    def _batches(self) -> Iterator[list[Batch]]:
        """Return the training batches from the current step on."""
        from sclds.data.loader import TrainingBatches
        from sclds.tasks.loader import TaskBatches

        make = TaskBatches if self.config.task else TrainingBatches
        training = make(
            self.config,
            self.tokenizer,
            self.group.rank,
            self.split.world_size,
            self.split.micro,
            self.split.accumulation,
            start_step=self.step,
            quarantine=Quarantine(self.folder.quarantine),
        )
        told = training.sentences() if isinstance(training, TaskBatches) else left_out_sentences(training.index)
        for sentence in (*told, *training.order.crowding()):
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
                    self.guard.state(),
                    self.best.best_step() if self.best else None,
                )
            self.saved_step = self.step
            if self.record is not None:
                self.record.update(self.step)
