"""Bytes of model state on one GPU, exactly: of the tensors that the engine holds, padding and counters included.

`sclds.costs.stages` has the same as formulas of the number of parameters, for sizes that no configuration names.
"""

import math

from sclds.config import Config
from sclds.costs.communication import (
    KEPT,
    bucket_size,
    flat_groups,
    steps_in_bf16_optimizer,
    zero_setting,
)
from sclds.costs.stages import gradient_bytes, value_bytes
from sclds.costs.tensors import largest_block, parameter_tensors

MOMENTS = 2
COUNTER_BYTES = 4
"""Of the number of steps that Adam keeps beside every tensor that it steps."""


def exact_state(config: Config, vocab_size: int, world_size: int) -> dict[str, int]:
    """Return the bytes of model state on one GPU between backward and the optimizer's step, by part.

    Args:
        config: Of which the architecture, the stage and the types count.
        vocab_size: Rows of the word embedding.
        world_size: GPUs.

    Returns:
        `parameters`, `gathered parameters` (what stage 3 keeps of all GPUs' parts while it computes), `gradients`,
        `optimizer state` (fp32 weights beside those of another type, Adam's moments and counters) and `buffers` (in
        which gradients travel).
    """
    stage, value, gradient = config.engine.zero_stage, value_bytes(config), gradient_bytes(config)
    tensors = parameter_tensors(config, vocab_size)
    groups, whole = flat_groups(tensors, world_size), sum(t.numel for t in tensors)
    if stage == 0:
        masters = 4 * whole if value != 4 else 0
        stepped = masters + 4 * MOMENTS * whole + COUNTER_BYTES * len(tensors)
        return _parts(value * whole, 0, 4 * whole, stepped, 0)
    bucket = zero_setting(config, "reduce_bucket_size", bucket_size(largest_block(config, vocab_size)))
    if stage == 3:
        own = sum(_part(t.numel, world_size) for t in tensors)
        stepped = 4 * (1 + MOMENTS) * own + COUNTER_BYTES * len(groups)
        gathered = min(whole, zero_setting(config, "stage3_max_reuse_distance", KEPT)) * value
        return _parts(value * own, gathered if world_size > 1 else 0, gradient * own, stepped, gradient * bucket)
    own = sum(groups) // world_size
    stepped = 4 * (1 + MOMENTS) * own + COUNTER_BYTES * len(groups)
    if steps_in_bf16_optimizer(config):
        return _parts(value * sum(groups), 0, 4 * sum(groups), stepped, 0)
    buffers = gradient * bucket * 2 + (value * whole if stage == 1 else 0)  # stage 1 sums them when backward has ended
    return _parts(value * sum(groups), 0, gradient * own, stepped, buffers)


def _parts(parameters: int, gathered: int, gradients: int, optimizer: int, buffers: int) -> dict[str, int]:
    names = ("parameters", "gathered parameters", "gradients", "optimizer state", "buffers")
    return dict(zip(names, (parameters, gathered, gradients, optimizer, buffers), strict=True))


def _part(numel: int, world_size: int) -> int:
    return math.ceil(numel / world_size)
