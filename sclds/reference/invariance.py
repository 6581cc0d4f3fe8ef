"""The same steps give the same numbers, however they are split, sharded and packed.

Every split runs as a user would run it, through the `deepspeed` launcher, in fp32: 1 process × 4 accumulation steps,
2 × 2 and 4 × 1, with ZeRO stages 0 and 3; and the first of them once more with the samples of every micro-batch packed
in another order. The first measures the others. Dropout is `DROPOUT`, since it follows from the samples alone; only
that of attention weights, which the attention kernels draw for a whole micro-batch, is off.

AdamW divides a gradient by its own magnitude. Where a gradient vanishes in exact arithmetic (attention key biases) what
is left is rounding noise, and with the usual eps of 1e-8 the update is that noise at full learning rate. No split of a
floating-point sum can agree there, so the comparison runs with `ADAM_EPS`, which makes such updates as small as the
noise itself; everything else of the optimizer stays as configured. `optimizer.eps=1e-8` on the command line takes
precedence and shows the difference. Weights are compared per tensor, relative to its largest magnitude.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from sclds.config import Config
from sclds.config.errors import UserError
from sclds.config.overrides import replaced
from sclds.config.reading import load_config
from sclds.config.rules import refuse_task
from sclds.run.checkpoints import newest_checkpoint
from sclds.run.metrics import read_metrics
from sclds.train.consolidate import consolidated_weights
from sclds.train.launch import pretrain

PARTS = 4
"""Micro-batches that one global batch is cut into in every split."""
TOLERANCE = 1e-5
"""Largest relative difference of losses and of weights."""
COUNTED = "_accuracy"
"""End of the names of metrics that count: one near-tie, decided by the last bit, moves them by a whole sample."""
ADAM_EPS = 1e-3
"""AdamW's epsilon in the comparison, see above."""
DROPOUT = 0.1
"""Of text and fusion in the comparison, as published."""
TIME_LIMIT = 3600
"""Seconds after which a split is given up."""


@dataclass(frozen=True)
class Way:
    """One way to compute the same steps."""

    world_size: int
    stage: int
    layout: str = "by_size"
    """Order in which the samples of a micro-batch are packed."""

    @property
    def name(self) -> str:
        """Return a short name: `processes x accumulation`, the ZeRO stage, and the packing order if it is another."""
        order = "" if self.layout == "by_size" else f" {self.layout}"
        return f"{self.world_size}x{PARTS // self.world_size} zero{self.stage}{order}"


@dataclass(frozen=True)
class Outcome:
    """What a way gave."""

    losses: list[dict[str, float]]
    """Loss terms by name, one entry a step."""
    weights: dict[str, Tensor]
    """Final parameters."""


@dataclass(frozen=True)
class Difference:
    """The largest relative differences of one way from the first."""

    way: str
    loss: float
    loss_where: str
    weight: float
    weight_where: str

    @property
    def passed(self) -> bool:
        """Whether both are within `TOLERANCE`; what is not a number is not."""
        return self.loss <= TOLERANCE and self.weight <= TOLERANCE


def forced_settings(steps: int, way: Way, micro: int, folder: Path) -> list[str]:
    """Return the overrides that make splits comparable and runs short."""
    return [
        *(f"run_dir={folder}", f"engine.zero_stage={way.stage}", "engine.precision=fp32"),
        *(f"schedule.steps={steps}", "schedule.warmup_share=0"),
        *(
            f"batch.max_micro_size={micro}",
            f"batch.layout={way.layout}",
            *(f"model.text.dropout={DROPOUT}", "model.text.attention_dropout=0"),
            *(f"model.fusion.dropout={DROPOUT}", "model.fusion.attention_dropout=0"),
        ),
        *("log.every=1", "log.pictures_every=0", "log.tensorboard=false", "data.heldout=[]"),
        *(f"checkpoint.every={steps}", "checkpoint.keep=1"),
    ]


def part_of(config: Config, world_sizes: Sequence[int]) -> int:
    """Return the size of one of the `PARTS` equal parts of the global batch.

    Raises:
        UserError: If the batch cannot be cut so.
    """
    wrong = [w for w in world_sizes if w < 1 or PARTS % w]
    if wrong:
        raise UserError(f"{wrong[0]} processes cannot share {PARTS} micro-batches; give 1, 2 or 4")
    unit = PARTS * config.batch.group_size
    size = config.batch.global_size
    if size % unit:
        raise UserError(
            f"batch.global_size={size} cannot be cut into {PARTS} micro-batches of whole groups of "
            f"batch.group_size={config.batch.group_size}; give batch.global_size={max(1, size // unit) * unit}"
        )
    return size // PARTS


def run_way(way: Way, config: Path, overrides: list[str], folder: Path) -> Outcome:
    """Train in this way with the real launcher and read what it wrote.

    Raises:
        UserError: If the run fails; the message carries the end of its output.
    """
    pretrain(way.name, config, overrides, way.world_size, TIME_LIMIT)
    checkpoint = newest_checkpoint(folder / "checkpoints")
    assert checkpoint is not None, "a run that ends well has its last step saved"
    losses = [line["loss"] for line in read_metrics(folder / "metrics.jsonl")]
    return Outcome(losses, consolidated_weights(checkpoint.folder))


def compare(name: str, found: Outcome, expected: Outcome) -> Difference:
    """Return the largest differences of `found` from `expected`.

    Raises:
        UserError: If they do not hold the same steps, loss terms and parameters.
    """
    same_steps = [sorted(line) for line in found.losses] == [sorted(line) for line in expected.losses]
    if not same_steps or found.weights.keys() != expected.weights.keys():
        raise UserError(f"{name} wrote other steps, loss terms or parameters than the first split; nothing to compare")
    losses = [
        (_relative(abs(ours[term] - theirs[term]), abs(theirs[term])), f"{term}, step {step}")
        for step, (ours, theirs) in enumerate(zip(found.losses, expected.losses, strict=True), start=1)
        for term in theirs
        if not term.endswith(COUNTED)
    ]
    weights = [
        (_relative(float((found.weights[key] - w).abs().max()), float(w.abs().max())), key)
        for key, w in expected.weights.items()
    ]
    loss, weight = max(losses, key=_rank), max(weights, key=_rank)
    return Difference(name, loss[0], loss[1], weight[0], weight[1])


def _relative(error: float, scale: float) -> float:
    return error / scale if error else 0.0


def _rank(entry: tuple[float, str]) -> float:
    """Order differences so that what is not a number comes out on top."""
    return entry[0] if entry[0] == entry[0] else float("inf")


def check_invariance(
    config: Path,
    overrides: list[str],
    steps: int,
    world_sizes: Sequence[int],
    stages: Sequence[int],
    say: Callable[[str], None],
) -> list[Difference]:
    """Run every way and compare each with the first.

    Args:
        config: YAML file, or the name of a shipped configuration.
        overrides: `key=value` settings over it.
        steps: Optimizer steps of each run.
        world_sizes: Numbers of processes.
        stages: ZeRO stages.
        say: Is told what runs next.

    Raises:
        UserError: If the numbers make no comparison, or a run fails.
    """
    if steps < 1:
        raise UserError("--steps must be at least 1")
    # What a person gives comes after our eps, and before what a comparison cannot do without.
    given = replaced([f"optimizer.eps={ADAM_EPS}"], overrides)
    settings = load_config(config, given)
    refuse_task(settings, "sclds verify invariance")
    micro = part_of(settings, world_sizes)
    ways = [Way(world_size, stage) for stage in stages for world_size in world_sizes]
    ways.append(Way(world_sizes[0], stages[0], "shuffled"))
    differences = []
    first: Outcome | None = None
    with tempfile.TemporaryDirectory(prefix="sclds-invariance-") as temporary:
        for way in ways:
            say(f"{way.name}: {steps} steps …")
            folder = Path(temporary) / way.name.replace(" ", "-")
            outcome = run_way(way, config, replaced(given, forced_settings(steps, way, micro, folder)), folder)
            first = first or outcome
            differences.append(compare(way.name, outcome, first))
    return differences
