"""Everything that an optimizer step of one GPU costs, counted from the configuration: nothing is built, run or traced.

`step_counts` is the one place to ask. Behind it: `counts` and `operators` (FLOPs, launches, bytes of the packed step's
operators), `activations`, `state` and `tensors` (memory), `communication` (collectives), `host` (the host's time).
docs/costs.md says against what each was checked, and how far it was off.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sclds.batch.split import Split
from sclds.config import Config
from sclds.costs.activations import activation_bytes
from sclds.costs.communication import Messages, step_messages
from sclds.costs.counts import Kind, packed_forward, parameter_counts
from sclds.costs.layers import Counted, micro_batch_work
from sclds.costs.operators import Pass
from sclds.costs.rows import Rows, micro_batch_rows
from sclds.costs.stages import state_bytes, value_bytes
from sclds.objectives import compares_globally


@dataclass(frozen=True)
class StepCounts:
    """What one optimizer step costs one GPU."""

    flops: Mapping[str, int]
    """Of matrix products, by part of the model: forward, backward, what is computed again, and the features' pass."""
    parameters: Mapping[str, int]
    """Of the whole model, by part."""
    state: Mapping[str, int]
    """Bytes of weights, gradients, optimizer state, and the buffers between them."""
    activations: Mapping[str, int]
    """Bytes at the peak of a micro-batch, by part."""
    messages: Mapping[str, Messages]
    """Collectives by purpose; `bytes` is what this GPU receives."""
    launches: Mapping[str, int]
    """Operators that compute, by phase: forward, backward, optimizer."""
    elementwise_bytes: Mapping[str, int]
    """What they read and write beside matrix products and attention, by phase."""
    host_seconds: float
    """Time that the host takes for all of it."""


def kind_shares(config: Config) -> dict[Kind, float]:
    """Return the share of each kind of sample, by the data sets' weights as if they were equally large."""
    total = sum(d.weight for d in config.data.train)
    shares: dict[Kind, float] = {}
    for dataset in config.data.train:
        shares[dataset.kind] = shares.get(dataset.kind, 0.0) + dataset.weight / total
    return dict(sorted(shares.items()))


def features_pass(config: Config, split: Split) -> bool:
    """Return whether the features of the whole batch are computed first, in a pass without gradients."""
    global_negatives = config.losses.negatives == "global_batch" and compares_globally(config.losses)
    return global_negatives and split.accumulation > 1
