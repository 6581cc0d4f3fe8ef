"""One optimiser step: fetch, features, forward, gather, loss, backward, update."""

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sclds.batch.packing import Batch
from sclds.batch.split import Split
from sclds.config import Config
from sclds.train.distributed import ProcessGroup, synchronize
from sclds.train.engine import to_device
from sclds.train.optimizer import set_learning_rate
from sclds.train.schedule import learning_rate_factor

PHASES = ("data", "forward", "backward", "optimizer")


@dataclass
class StepReport:
    """What a step did: this rank's share of every loss term (not yet summed over ranks), and the seconds it took."""

    terms: dict[str, Tensor] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    applied: bool = True

    def add(self, terms: dict[str, Tensor]) -> None:
        """Add one micro-batch's terms."""
        for name, value in terms.items():
            self.terms[name] = self.terms.get(name, torch.zeros_like(value)) + value


class Stopwatch:
    """Seconds per phase; waits for the accelerator at each reading only when `exact`."""

    def __init__(self, seconds: dict[str, float], exact: bool):
        self._seconds = seconds
        self._exact = exact
        self._last = self._now()

    def charge(self, phase: str) -> None:
        """Add the time since the last reading to a phase."""
        now = self._now()
        self._seconds[phase] += now - self._last
        self._last = now

    def _now(self) -> float:
        if self._exact:
            synchronize()
        return time.perf_counter()


def train_step(
    engine: Any,
    batches: list[Batch],
    step: int,
    config: Config,
    split: Split,
    group: ProcessGroup,
    measure: bool,
) -> StepReport:
    """Run optimiser step `step` (from 0) on this rank's micro-batches; without a finite gradient it changes nothing."""
    from sclds.losses.objectives import GlobalBatch, features_of, step_loss

    report = StepReport()
    watch = Stopwatch(report.seconds, measure)
    micro_batches = [to_device(batch, group, config.engine.precision) for batch in batches]
    set_learning_rate(engine.optimizer, learning_rate_factor(step, config.schedule))
    watch.charge("data")

    whole = split.accumulation > 1 and config.losses.negatives == "global_batch"
    shared = gather_whole_batch(engine, micro_batches, step, config, group) if whole else None
    for index, batch in enumerate(micro_batches):
        seed_dropout(config.seed, step, index, group.rank)
        outputs = engine(batch)
        negatives = shared or GlobalBatch.gather(
            [features_of(outputs)], [batch], config.losses, group, step_batches=micro_batches
        )
        loss, terms = step_loss(outputs, batch, negatives, index if whole else 0, config.losses)
        report.add(terms)
        watch.charge("forward")
        # DeepSpeed averages over ranks and accumulation steps; the shares are to be summed.
        engine.backward(loss * (split.world_size * split.accumulation))
        watch.charge("backward")
        engine.step()
        watch.charge("optimizer")
    report.applied = bool(engine.was_step_applied())
    return report


def gather_whole_batch(engine: Any, micro_batches: list[Batch], step: int, config: Config, group: ProcessGroup) -> Any:
    """Return the features of every micro-batch of every rank, out of a pass without gradients (same dropout)."""
    from sclds.losses.objectives import GlobalBatch, features_of

    features = []
    with torch.no_grad():
        for index, batch in enumerate(micro_batches):
            seed_dropout(config.seed, step, index, group.rank)
            features.append(features_of(engine(batch)))
    return GlobalBatch.gather(features, micro_batches, config.losses, group)


def seed_dropout(seed: int, step: int, index: int, rank: int) -> None:
    """Key the dropout of one micro-batch, so that both passes over it, and a resumed run, draw the same."""
    torch.manual_seed(hash((seed, step, index, rank)) & (2**63 - 1))
