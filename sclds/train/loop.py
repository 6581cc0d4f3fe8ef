"""A run from its first step, or its newest checkpoint, to its results."""

import time
from collections.abc import Iterator
from typing import Any, Literal

from sclds.batch import Batch
from sclds.batch.split import Split, split_batch
from sclds.config import Config
from sclds.config.errors import SharedError, UserError
from sclds.costs.counts import parameter_counts
from sclds.costs.peak import machine_profile
from sclds.data.heldout_apart import shared_shards
from sclds.data.quarantine import Quarantine
from sclds.data.storage.shards import left_out_sentences
from sclds.data.tokenizer import Tokenizer, load_tokenizer
from sclds.data.words import word_entropy
from sclds.evaluation.losses import loss_titles
from sclds.machine.implementations import choose, compute_dtype, use
from sclds.run.folder import RunFolder
from sclds.run.health import Health, health_of
from sclds.run.metrics import read_metrics
from sclds.train.agreement import refuse_strangers
from sclds.train.ahead import Ahead, NextStep
from sclds.train.best import BestCheckpoint
from sclds.train.checkpoint import fits, load_checkpoint
from sclds.train.corruption import CorruptionError, SelfCheck
from sclds.train.data_wait import DataWait
from sclds.train.describe import described
from sclds.train.distributed import ProcessGroup
from sclds.train.engine import build_engine, count_parameters
from sclds.train.flat_blocks import layout_of
from sclds.train.guard import SkipGuard
from sclds.train.guards import Guards
from sclds.train.heldout import HeldoutMeasurements
from sclds.train.interrupt import StopRequest
from sclds.train.journal import Journal
from sclds.train.measures import StepMeasures
from sclds.train.metrics import MetricsWriter, show_results
from sclds.train.preflight import preflight
from sclds.train.progress import Reporter, write_page_of
from sclds.train.record import StartRecord
from sclds.train.resume import checkpoint_before, remove_after, sound_checkpoint
from sclds.train.saver import CheckpointSaver
from sclds.train.slow_ranks import SlowRanks
from sclds.train.spikes import Spike, SpikeGuard
from sclds.train.step import StepReport, train_step
from sclds.train.task import prepare_data


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
        self.journal = Journal(guards.events, folder, group.rank, reporter.say)
        refuse_strangers(config, group)
        self.implementations = choose(config)
        use(self.implementations)
        self.split: Split = split_batch(config.batch, group.world_size)
        self.tokenizer: Tokenizer = load_tokenizer(config.data.tokenizer)
        words = config.model.text.vocab_size or self.tokenizer.vocab_size
        preflight(folder.root, sum(parameter_counts(config, words).values()), group, reporter.say)
        self.checkpoint = sound_checkpoint(folder.checkpoints, group, self.journal.teller("passed_over"))
        prepare_data(config, self.checkpoint, group, self.journal.teller("other_data"))
        model = config.model if self.checkpoint is None else config.model.model_copy(update={"init_from": None})
        start = config.model_copy(update={"model": model})
        self.engine = build_engine(start, self.tokenizer, self.split, group)
        self.step = 0
        self.saved_step = -1
        self.saver = CheckpointSaver(self.engine, folder.checkpoints, config, group, reporter.say, self._note_saved)
        self.guard = SkipGuard(config.optimizer.max_skipped_in_a_row, self.journal.teller("skipped_step"))
        self.spikes = SpikeGuard(config.guards, config.log.every, config.data.skip_batches)
        self.self_check = SelfCheck(config, self.saver.engine, group)
        self.quarantine = Quarantine(folder.quarantine)
        self.bad_samples = 0
        self.stop = StopRequest()
        self.heldout = HeldoutMeasurements(config, self.engine, self.tokenizer, group, folder, reporter, self.stop)
        self.record: StartRecord | None = None
        self.best: BestCheckpoint | None = None
        self.health = Health(config.schedule.steps, config.log.stuck_share)
        self.slow_ranks = SlowRanks(config.log.slow_rank)

    def carry_out(self) -> bool:
        """Train to the last step, and measure; return False if a signal ended the run before. A fault is noted."""
        try:
            self._resume()
            for line in described(self.config, self.split, self.implementations, self.group.device, self.engine.module):
                self.reporter.say(line)
            parameters, dtype = count_parameters(self.engine.module), compute_dtype(self.config)
            self.record = StartRecord(self.folder, self.group, parameters, self.step, self.reporter.say, dtype)
            with self.stop:
                if self._train() and self._finish():
                    return True
                self.record.update(self.step, "stopped")
                self.journal.note("stop", "asked to stop, and saved")
                return False
        except Exception as fault:
            if self.record is not None:
                self.record.fail(self.step, str(fault).partition("\n")[0] or type(fault).__name__)
            raise

    def _train(self) -> bool:
        """Train to the last step; return False if a signal ended that before."""
        if not self.step:
            with self.guards.limit("held-out measurements", "evaluation"), self.journal.spending("evaluation"):
                self.heldout.measure_start()
        self.journal.spent.all_so_far_to("start")
        try:
            while (outcome := self._take_steps()) == "gone back":
                pass
        finally:
            self.saver.close()
        return outcome == "finished"

    def _take_steps(self) -> Literal["finished", "stopped", "gone back"]:
        """Take steps up to the last one, to a stop signal, or to a spike after which the run stands further back."""
        lines = read_metrics(self.folder.metrics) if self.group.rank == 0 else []
        self.best = BestCheckpoint(self.config.checkpoint.best, self.group, lines, self.folder.checkpoints)
        self.health = health_of(lines, self.config.schedule.steps, self.config.log.stuck_share)
        engine, spent = self.self_check.engine, self.journal.spent
        self.self_check.begin(self.step)
        self.journal.at(self.step)
        self.journal.note("training", f"steps are taken from {self.step} on", **self.spikes.state())
        assert self.record is not None
        measures = StepMeasures(self.config, self.split, self.group, self.record.hosts, self.record.peak_flops)
        metrics = MetricsWriter(
            self.folder, self.config, self.group, self.step, measures, self.reporter.say, self._word_entropy()
        )
        waits = DataWait()
        self.reporter.start(self.step)
        try:
            ahead = self._ahead()
            while self.step < self.config.schedule.steps:
                taken = self._step(ahead, measures, waits)
                if taken is None:
                    self._save()
                    self._finish_saving()
                    return "stopped"
                micro_batches, report = taken
                measured = self._measure_between(metrics)
                line = metrics.record(engine, self.step, report, self.guard.total, micro_batches, measured, spent)
                metrics.show_inputs(self.step, micro_batches[0], self.tokenizer)
                self.reporter.advance(self.step, line)
                self._judge(line, measures)
                self.guard.stop_if_stuck(self.step)
                self._refuse_corruption(self.self_check.found(self.step, micro_batches[0]))
                if (spike := self._agreed_spike(line)) is not None and self._go_back(spike):
                    return "gone back"
                better = bool(measured) and self.best is not None and self.best.improved(self.step, measured)
                if better or self.step % self.config.checkpoint.every == 0:
                    self._save()
            self._save()
            self._finish_saving()
            return "finished"
        except SharedError:  # all ranks are here
            self._finish_saving()
            raise
        finally:
            measures.clock.drop()
            self.reporter.stop()
            metrics.close()

    def _step(self, ahead: Ahead, measures: StepMeasures, waits: DataWait) -> tuple[list[Batch], StepReport] | None:
        """Take a step, or none where any rank was asked to stop; return its micro-batches and what it did."""
        begun = time.perf_counter()
        measures.clock.begin()
        agreed = self._next_step(ahead)
        if agreed is None:
            return None
        batches, sizes, taken = agreed.micro_batches, agreed.sizes, time.perf_counter()
        self.saver.poll()
        with self.guards.limit("the step", "step"):
            engine = self.self_check.engine
            report = train_step(engine, batches, self.step, self.config, self.split, self.group, sizes)
        stepped = time.perf_counter()
        self.step += 1
        if self.step < self.config.schedule.steps:  # while a device computes this one
            with self.guards.limit("data", "step"):
                ahead.fetch()
        measures.clock.end()
        measures.add(batches)
        self.journal.at(self.step)
        self.guard.count(self.step, report.applied)
        self._charge(taken - begun + time.perf_counter() - stepped, stepped - taken, waits)
        return batches, report

    def _charge(self, data: float, step: float, waits: DataWait) -> None:
        """Charge the seconds of a step to its data and to itself; say so where data is what it waits for."""
        self.journal.spent.charge("data", data)
        self.journal.spent.charge("step", step)
        if (slow := waits.add(data, data + step)) is not None:
            self.reporter.say(slow)

    def _finish(self) -> bool:
        """Measure on held-out data, write results and the report, show them; return False if a signal ended that."""
        with self.guards.limit("held-out measurements", "evaluation"), self.journal.spending("evaluation"):
            results = self.heldout.measure_end(self.step)
        if results is None:
            return False
        assert self.record is not None
        results["profile"] = machine_profile(self.config, self.group.world_size, self.record.peak_flops)
        if self.group.rank == 0:
            self.folder.write_results(results)
            show_results(self.config, self.folder, results, self.reporter.say)
        self.record.update(self.step, "finished")
        self.journal.note("finish", "the last step is done, and its results are written")
        if self.group.rank == 0:
            write_page_of(self.folder, self.reporter)
        self.reporter.show_results(results)
        self.group.barrier()
        return True

    def _resume(self) -> None:
        """Go on from the newest complete checkpoint, if there is one."""
        if self.checkpoint is not None:
            if not fits(self.checkpoint, self.config, self.group.world_size, layout_of(self.engine.module)):
                self.reporter.say(
                    f"{self.checkpoint.folder} is of other processes, another ZeRO stage or layout: sharding it again"
                )
            saved = load_checkpoint(self.engine, self.checkpoint, self.config, self.group)
            self.guard.resume(saved)
            self.spikes.resume(saved)
            self.step = self.saved_step = self.checkpoint.step
            before = self.checkpoint.config.get("data", {}).get("skip_batches", [])
            if (changed := self.spikes.settled(self.step, before)) is not None:
                self.reporter.say(changed)
            self.journal.at(self.step)
            self.journal.tell("resume", f"Resuming after step {self.step} from {self.checkpoint.folder}")
        if self.group.rank == 0:
            for problem in self.folder.open(self.config, self.step):
                self.reporter.say(problem)
        self.group.barrier()

    def _word_entropy(self) -> float | None:
        """Return the entropy of words, with which MLM is compared, where rank 0 needs it."""
        if self.group.rank != 0 or self.config.losses.mlm == 0:
            return None
        return word_entropy(self.config, self.tokenizer)

    def _judge(self, line: dict[str, Any] | None, measures: StepMeasures) -> None:
        """Say which losses have come to stay at what guessing gives, and for which rank the others wait."""
        for stuck in self.health.add(line) if line else ():
            self.reporter.say(stuck.sentence(loss_titles()[stuck.term]))
        if line and measures.ranks and (told := self.slow_ranks.add(measures.ranks)):
            self.journal.tell("slow_rank", told, **line["ranks"])

    def _measure_between(self, metrics: MetricsWriter) -> dict[str, float]:
        """Return what held-out sets give after this step, where that is due, and nothing else."""
        every = self.config.evaluation.every
        if not every or self.step % every:
            return {}
        begun = time.perf_counter()
        with self.guards.limit("held-out measurements", "evaluation"), self.journal.spending("evaluation"):
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
            quarantine=self.quarantine,
            windows=self.spikes.all_windows,
        )
        told = training.sentences() if isinstance(training, TaskBatches) else left_out_sentences(training.index)
        shared = shared_shards(self.config.data) if self.group.rank == 0 else []
        for sentence in (*told, *training.order.crowding(), *shared):
            self.reporter.say(sentence)
        return iter(training)

    def _ahead(self) -> Ahead:
        """Return what fetches and agrees on a step while the one before runs."""
        sizes = self.split.accumulation, self.config.model.vision.max_frames
        return Ahead(self._batches(), *sizes, self.group, lambda: self.stop.requested, self.guards.fault)

    def _next_step(self, ahead: Ahead) -> NextStep | None:
        """Return what the next step begins with, or nothing if any rank was asked to stop.

        Raises:
            UserError: On every rank, if any rank's data cannot be used.
        """
        try:
            with self.guards.limit("data", "step"):
                return ahead.take()
        except UserError:  # on all ranks
            self._finish_saving()
            raise

    def _save(self) -> None:
        """Have a checkpoint written, unless this step has one."""
        if self.saved_step != self.step:
            self._refuse_corruption(self.self_check.memory_found(self.step))
            with self.guards.limit("a checkpoint", "save"), self.journal.spending("checkpoint"):
                state = self.guard.state() | self.spikes.state()
                self.saver.save(self.step, state, self.best.best_step() if self.best else None)
            self.saved_step = self.step
            self._note_bad_samples()

    def _finish_saving(self) -> None:
        """Wait until the last checkpoint is complete."""
        with self.guards.limit("a checkpoint", "save"), self.journal.spending("checkpoint"):
            self.saver.wait()

    def _note_saved(self, step: int) -> None:
        """Note in the run folder that a checkpoint is complete."""
        if self.record is not None:
            self.record.update(step)
        self.journal.note("checkpoint", f"step {step} is saved")

    def _agreed_spike(self, line: dict[str, Any] | None) -> Spike | None:
        """Return the spike that a logged line is; all ranks read the same sums, and act only if all see it."""
        if not self.config.guards.spike_deviations or line is None:
            return None
        spike = self.spikes.judge(self.step, line)
        seen = self.group.gather_counts([spike is not None])
        return spike if seen.all() else None

    def _go_back(self, spike: Spike) -> bool:
        """Load the checkpoint before a spike and leave out the batches since; return whether there is one."""
        self._finish_saving()
        checkpoints, tell = self.folder.checkpoints, self.journal.teller("spike")
        before = checkpoint_before(checkpoints, spike.last_good, self.config.checkpoint.every, self.group)
        if before is None:
            tell(f"{spike.sentence()}. There is no checkpoint before it: the run goes on")
            return False
        window = self.spikes.leave_out(spike, before.step)
        tell(
            f"{spike.sentence()}. The run goes back to step {before.step} and leaves out {window[1]} batches from "
            f"number {window[0]} on (data.skip_batches=[[{window[0]},{window[1]}]] repeats that)"
        )
        with self.guards.limit("a checkpoint", "save"), self.journal.spending("start"):
            saved = load_checkpoint(self.engine, before, self.config, self.group)
        self.guard.resume(saved)
        self.spikes.resume(saved, keep_windows=True)
        self.step = self.saved_step = before.step
        if self.group.rank == 0:
            remove_after(checkpoints, before.step)
            self.folder.open(self.config, self.step)
        self.group.barrier()
        return True

    def _refuse_corruption(self, found: str | None) -> None:
        """End the run where bits changed by themselves, before they reach a checkpoint."""
        if found is None:
            return
        self.journal.note("corruption", found)
        raise CorruptionError(
            f"{found}. Take that host out of the run and test its memory; the same command goes on from the last "
            f"checkpoint, which was written before"
        )

    def _note_bad_samples(self) -> None:
        """Write down how many samples were unusable, where there are new ones."""
        seen, bad = self.group.gather_counts([self.quarantine.seen, self.quarantine.bad]).sum(0).tolist()
        if bad > self.bad_samples:
            self.bad_samples = bad
            cause = f"{bad} of the {seen} samples read since this start are unusable ({bad / seen:.2%})"
            self.journal.note("bad_samples", cause, seen=seen, bad=bad)
