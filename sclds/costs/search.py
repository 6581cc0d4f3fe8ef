"""The settings that a cluster could run a configuration with: each one's memory and time, and why some do not fit.

Searched are the micro-batch, the ZeRO stage and activation checkpointing: none of them changes what a step computes,
but the micro-batch under `losses.negatives: micro_batch`, where it stays within what the configuration says.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from sclds.batch.split import Split, split_batch
from sclds.config import Config
from sclds.config.errors import ConfigError
from sclds.costs.clusters import Cluster
from sclds.costs.own_work import Mix, bytes_by_part, counts_of, step_work
from sclds.costs.predict import StepTime, StepWork, predict
from sclds.costs.step import StepCounts

RESERVED_SHARE = 0.1
"""Share of a GPU's memory left to CUDA, NCCL and fragmentation when micro-batches are judged to fit."""
STAGES = (0, 1, 2, 3)


@dataclass(frozen=True)
class Outcome:
    """A setting on a cluster."""

    config: Config
    split: Split
    cluster: Cluster
    mix: Mix

    @cached_property
    def counts(self) -> StepCounts:
        """Everything that is counted of a step."""
        return counts_of(self.config, self.split, self.mix, fused=self.cluster.kind.asynchronous)

    @cached_property
    def memory(self) -> dict[str, int]:
        """Bytes of one GPU by part."""
        return bytes_by_part(self.counts)

    @cached_property
    def needed(self) -> int:
        """Bytes of one GPU."""
        return sum(self.memory.values())

    @property
    def room(self) -> float:
        """Bytes of one GPU that may be needed."""
        return self.cluster.kind.memory * (1 - RESERVED_SHARE)

    @property
    def fits(self) -> bool:
        """Whether the estimate leaves the reserve free."""
        return self.needed <= self.room

    @property
    def why(self) -> str | None:
        """Why it does not fit, with the largest part and what would help."""
        if self.fits:
            return None
        largest = max(self.memory, key=lambda part: self.memory[part])
        return (
            f"needs {self.needed / 1e9:.3g} GB of a GPU, {self.memory[largest] / 1e9:.3g} of them {largest}; "
            f"{self.room / 1e9:.3g} of {self.cluster.kind.memory / 1e9:.3g} GB are free for it"
        )

    @cached_property
    def work(self) -> StepWork:
        """What one GPU does in a step."""
        return step_work(self.config, self.split, self.mix, self.counts)

    @cached_property
    def time(self) -> StepTime:
        """Seconds of a step."""
        return predict(self.work, self.cluster)

    @property
    def samples_per_second(self) -> float:
        """Of all GPUs."""
        return self.config.batch.global_size / self.time.total

    def settings(self, than: Config) -> list[str]:
        """Return what has to be set for it, over a configuration."""
        engine, other = self.config.engine, than.engine
        found = []
        if engine.zero_stage != other.zero_stage:
            found.append(f"engine.zero_stage={engine.zero_stage}")
        if engine.activation_checkpointing != other.activation_checkpointing:
            found.append(f"engine.activation_checkpointing={str(engine.activation_checkpointing).lower()}")
        largest = _largest(than, self.split.world_size)
        if largest is None or largest.micro != self.split.micro:
            found.append(f"batch.max_micro_size={self.split.micro}")
        return found


def possible_splits(config: Config, processes: int, beyond: bool = False) -> list[Split]:
    """Return the splits of the global batch over `processes`, largest micro-batch first.

    Args:
        config: The run.
        processes: One a GPU.
        beyond: Whether micro-batches may be larger than `batch.max_micro_size`.

    Raises:
        ConfigError: There is none; the message names what would have one.
    """
    batch = config.batch
    if beyond:
        part = max(batch.global_size // processes, batch.group_size)
        batch = batch.model_copy(update={"max_micro_size": part})
    splits = [split_batch(batch, processes)]
    while splits[-1].micro > batch.group_size:
        smaller = batch.model_copy(update={"max_micro_size": splits[-1].micro - 1})
        try:
            splits.append(split_batch(smaller, processes))
        except ConfigError:
            break
    return splits


def as_configured(config: Config, cluster: Cluster, mix: Mix) -> Outcome:
    """Return what the configuration says, with the largest micro-batch that it allows and that fits; else the smallest.

    Raises:
        ConfigError: The global batch cannot be split over so many GPUs.
    """
    outcomes = [Outcome(config, split, cluster, mix) for split in possible_splits(config, cluster.gpus)]
    return next((outcome for outcome in outcomes if outcome.fits), outcomes[-1])


def search(config: Config, cluster: Cluster, mix: Mix) -> list[Outcome]:
    """Return all settings, those that fit first, the fastest of them in front; of equal ones the nearest to the file's.

    Raises:
        ConfigError: The global batch cannot be split over so many GPUs.
    """
    found = list(_settings(config, cluster, mix))
    return sorted(found, key=lambda outcome: (not outcome.fits, _cost(outcome, config)))


def _cost(outcome: Outcome, config: Config) -> tuple[float, int]:
    if not outcome.fits:
        return float(outcome.needed), 0
    return round(outcome.time.total, 4), len(outcome.settings(config))


def _settings(config: Config, cluster: Cluster, mix: Mix) -> Iterator[Outcome]:
    beyond = config.losses.negatives == "global_batch"
    splits: Sequence[Split] = possible_splits(config, cluster.gpus, beyond)
    for stage in STAGES:
        for checkpointing in (False, True):
            engine = config.engine.model_copy(update={"zero_stage": stage, "activation_checkpointing": checkpointing})
            other = config.model_copy(update={"engine": engine})
            for split in splits:
                yield Outcome(other, split, cluster, mix)


def _largest(config: Config, processes: int) -> Split | None:
    try:
        return split_batch(config.batch, processes)
    except ConfigError:
        return None


def at_stage(config: Config, stage: int) -> Config:
    """Return the configuration at another ZeRO stage."""
    return config.model_copy(update={"engine": config.engine.model_copy(update={"zero_stage": stage})})
