"""One optimizer step: fetch, features, forward, gather, loss, backward, update."""

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sclds.batch import Batch
from sclds.batch.split import Split
from sclds.config import Config
from sclds.data.keys import seed_of
from sclds.losses.objectives import FeatureGather, GlobalFeatures, StepSizes, step_loss
from sclds.machine.implementations import compute_dtype
from sclds.machine.phase_clock import phase
from sclds.objectives import compares_globally
from sclds.train.optimizer import learning_rates, set_learning_rate
from sclds.train.schedule import learning_rate_factor

if TYPE_CHECKING:  # the step itself needs no DeepSpeed, so that a machine without it can check the step
    from sclds.train.distributed import ProcessGroup


@dataclass
class StepReport:
    """What a step did: this rank's share of every loss term, not yet summed over ranks."""

    terms: dict[str, Tensor] = field(default_factory=dict)
    applied: bool = True
    rates: dict[str, float] = field(default_factory=dict)
    """Learning rates that the step used, by part of the model."""

    def add(self, terms: dict[str, Tensor]) -> None:
        """Add one micro-batch's terms."""
        for name, value in terms.items():
            self.terms[name] = self.terms.get(name, torch.zeros_like(value)) + value


def train_step(
    engine: Any,
    batches: list[Batch],
    step: int,
    config: Config,
    split: Split,
    group: "ProcessGroup",
    sizes: StepSizes | None = None,
) -> StepReport:
    """Run optimizer step `step` (from 0) on this rank's micro-batches; without a finite gradient it changes nothing.

    `sizes` are those of all ranks' micro-batches, where they were exchanged before.
    """
    report = StepReport()
    with phase("data"):
        micro_batches = [batch.to(group.device, compute_dtype(config)) for batch in batches]
    set_learning_rate(engine.optimizer, learning_rate_factor(step, config.schedule))

    sizes = sizes or StepSizes.gather(micro_batches, group)
    global_negatives = config.losses.negatives == "global_batch" and compares_globally(config.losses)
    two_passes = split.accumulation > 1 and global_negatives
    features = features_of_step(engine, micro_batches, sizes, step, config, group) if two_passes else None
    for index, batch in enumerate(micro_batches):
        seed_attention_dropout(config.seed, step, index, group.rank)
        with phase("forward"):
            if features is not None:
                outputs = engine(batch)
                loss, terms = step_loss(outputs, batch, features, index, config.losses)
            else:
                gather = FeatureGather(config.losses, group, sizes)
                outputs = forward(engine, batch, index, gather)
                loss, terms = step_loss(outputs, batch, gather.wait(), 0, config.losses)
            if config.task is not None:
                from sclds.tasks.loss import with_task  # the benchmarks' step runs where no image can be read

                loss, terms = with_task(loss, terms, outputs, batch, sizes.counts.samples, config.task.name)
            report.add(terms)
        with phase("backward"):
            # DeepSpeed averages over ranks and accumulation steps; the shares are to be summed.
            engine.backward(loss * (split.world_size * split.accumulation))
        report.rates = learning_rates(engine.optimizer)
        with phase("optimizer"):
            engine.step()
    report.applied = bool(engine.was_step_applied())
    return report


def features_of_step(
    engine: Any, micro_batches: list[Batch], sizes: StepSizes, step: int, config: Config, group: "ProcessGroup"
) -> GlobalFeatures:
    """Return the features of every micro-batch of every rank, out of a pass without gradients (same dropout)."""
    gather = FeatureGather(config.losses, group, sizes)
    with torch.no_grad(), phase("forward"):
        for index, batch in enumerate(micro_batches):
            seed_attention_dropout(config.seed, step, index, group.rank)
            forward(engine, batch, index, gather)
        return gather.wait()


def forward(engine: Any, batch: Batch, index: int, gather: FeatureGather) -> dict[str, Tensor]:
    """Run the model on a micro-batch; its projections travel while fusion runs, what fusion gives while all goes on."""
    send = partial(gather.send, index, batch)
    outputs: dict[str, Tensor] = engine(batch, send)
    send(outputs)
    return outputs


def seed_attention_dropout(seed: int, step: int, index: int, rank: int) -> None:
    """Key the dropout of attention weights in one micro-batch: both passes over it, and a resumed run, draw the same.

    Attention kernels draw it from PyTorch's generator; all other dropout follows from the samples
    (`sclds.batch.dropout_keys`).
    """
    torch.manual_seed(seed_of(seed, "dropout", step, index, rank))
