"""What travels in an optimizer step: every collective, how many of it, and how many bytes a GPU receives.

A collective over W GPUs on tensors of N bytes together brings each GPU N·(W - 1)/W bytes where it gathers or scatters,
and twice that where it leaves the sum on all of them (a reduction and a gather, as a ring does it). Which collectives
there are follows from DeepSpeed 0.19's code, the tensors of `sclds.costs.tensors`, and what our losses exchange:

* stage 3: tensors are padded to W equal parts. A forward gathers them in buckets ahead of their use; what is used again
  within `stage3_max_reuse_distance` stays until backward, the rest is gathered again (`sclds.costs.fetching`). Every
  micro-batch scatters gradients.
* stage 2: every micro-batch sums all gradients on all GPUs, in buckets (`use_multi_rank_bucket_allreduce`), of which
  each keeps its part; stages 1 and 2 gather the stepped weights, one message a group of the optimizer.
* stage 1 sums once a step, and so does stage 0 in our own optimizer, by 500 million values.

So stages 1 and 2 bring a GPU more than stage 3 does: a sum is twice a scatter.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sclds.batch.split import Split
from sclds.config import Config
from sclds.costs.counts import Kind, Views, views_of
from sclds.costs.fetching import gathers_of
from sclds.costs.stages import gradient_bytes, value_bytes
from sclds.costs.tensors import ParameterTensor, largest_block, parameter_tensors
from sclds.objectives import compares_globally, objectives_in_use

Collective = Literal["all_gather", "reduce_scatter", "all_reduce"]
KEPT = 1_000_000_000
"""Parameters that stage 3 keeps between two uses, and that may be there for others to be fetched ahead (DeepSpeed's
`stage3_max_reuse_distance` and `stage3_max_live_parameters`)."""
WITHOUT_ZERO = 500_000_000
"""Values that DeepSpeed reduces in one message at stage 0."""
IDENTITY_BYTES = 16
"""Of a row whose duplicates are looked for: two numbers of 64 bits."""


@dataclass(frozen=True)
class Messages:
    """All collectives of one purpose in an optimizer step."""

    collective: Collective
    count: int
    tensor_bytes: int
    """Of what is gathered or reduced, whole, over all `count`."""
    world_size: int
    on_host: bool = False
    """Whether the numbers go from host to host, past the GPU."""

    @property
    def bytes(self) -> int:
        """What one GPU receives."""
        ways = 2 if self.collective == "all_reduce" else 1
        return ways * self.tensor_bytes * (self.world_size - 1) // self.world_size


def bucket_size(largest: int) -> int:
    """Return how many values ZeRO sends in one message, gradients in backward and parameters fetched ahead.

    Two blocks, the text's and the vision's of a fusion layer: their gradients leave while the blocks before compute
    theirs, and their parameters arrive while the blocks before compute. At least 25 million, below which a message
    (50 MB in bf16) no longer reaches a network's rate; a smaller model is reduced in one message at the end, and has
    nothing to hide. At most 50 million, 200 MB of fp32 gradients beside the model. DeepSpeed's 500 million are more
    than the base model has, so that nothing was sent before backward had ended.

    Args:
        largest: Weights of the model's largest block.
    """
    return min(max(2 * largest, 25_000_000), 50_000_000)


def step_messages(
    config: Config, split: Split, kinds: Sequence[Kind], text_tokens: int, vocab_size: int
) -> dict[str, Messages]:
    """Return the collectives of one optimizer step by purpose; those of which there is none are left out.

    Args:
        config: The run.
        split: Of its batch.
        kinds: Of samples in it; features are those of the largest.
        text_tokens: Of a caption, BOS and EOS included.
        vocab_size: Rows of the word embedding.
    """
    tensors = [t for t in parameter_tensors(config, vocab_size) if t.used or config.engine.zero_stage < 3]
    found = _of_engine(config, split, tensors, largest_block(config, vocab_size))
    found |= _of_losses(config, split, [views_of(config, kind, text_tokens) for kind in kinds])
    return {what: messages for what, messages in found.items() if messages.count and split.world_size > 1}


def communication_per_step(
    config: Config, split: Split, kinds: Sequence[Kind], text_tokens: int, vocab_size: int
) -> dict[str, int]:
    """Return the bytes that one GPU receives in an optimizer step, by purpose, see `step_messages`."""
    messages = step_messages(config, split, kinds, text_tokens, vocab_size)
    return {what: sent.bytes for what, sent in messages.items()}


def _of_engine(config: Config, split: Split, tensors: Sequence[ParameterTensor], largest: int) -> dict[str, Messages]:
    """Return what DeepSpeed sends."""
    stage, world = config.engine.zero_stage, split.world_size
    value, gradient = value_bytes(config), gradient_bytes(config)
    bucket = zero_setting(config, "reduce_bucket_size", bucket_size(largest))
    backward = [t.numel for t in reversed(tensors) if t.learned]
    if stage == 0:
        return {"gradients": _summed([t.numel for t in tensors], world)}
    groups = flat_groups(tensors, world)
    if stage == 3:
        fetched = zero_setting(config, "stage3_prefetch_bucket_size", bucket_size(largest))
        gathers, gathered = _gathers(config, split, tensors, fetched)
        reductions, padded = split.accumulation * len(_buckets(backward, bucket)), _padded(backward, world)
        return {
            "parameters": Messages("all_gather", gathers, gathered * value, world),
            "gradients": Messages("reduce_scatter", reductions, split.accumulation * padded * gradient, world),
            "norm": Messages("all_reduce", len(groups), 8 * len(groups), world),
        }
    parameters = Messages("all_gather", len(groups), sum(groups) * value, world)
    if steps_in_bf16_optimizer(config):
        return {"gradients": _summed(groups, world), "parameters": parameters}
    sums, finite = split.accumulation if stage == 2 else 1, int(config.engine.precision == "bf16")
    reductions = sums * len(_buckets(backward, bucket))
    return {
        "gradients": Messages("all_reduce", reductions, sums * sum(backward) * gradient, world),
        "parameters": parameters,
        "norm": Messages("all_reduce", len(groups), 4 * len(groups), world),
        "finite": Messages("all_reduce", finite, finite, world),
    }


def steps_in_bf16_optimizer(config: Config) -> bool:
    """Return whether DeepSpeed's optimizer for bf16 runs: at stage 1, where gradients are added up in fp32."""
    engine = config.engine
    return engine.zero_stage == 1 and engine.precision == "bf16" and engine.gradient_precision == "fp32"


def flat_groups(tensors: Iterable[ParameterTensor], world_size: int) -> list[int]:
    """Return the values of each group of the optimizer in one tensor, in which stages 1 and 2 shard it."""
    sizes: dict[tuple[str, bool], int] = {}
    for tensor in tensors:
        sizes[tensor.group] = sizes.get(tensor.group, 0) + tensor.numel
    return [_padded([size], 2 * world_size) for size in sizes.values()]


def _summed(sizes: Sequence[int], world: int) -> Messages:
    """Return the sums of fp32 gradients on all GPUs once a step, as DeepSpeed takes them without ZeRO."""
    return Messages("all_reduce", len(_buckets(sizes, WITHOUT_ZERO, after=True)), 4 * sum(sizes), world)


def _gathers(config: Config, split: Split, tensors: Sequence[ParameterTensor], fetched: int) -> tuple[int, int]:
    """Return how many gathers a step has at stage 3, and the values of them all, padding included.

    Passes without gradients spoil DeepSpeed's trace: then every forward releases all, and backward fetches module by
    module.
    """
    whole, world, passes = [t.numel for t in tensors], split.world_size, split.accumulation
    if features_pass(config, split.accumulation):
        modules = len({t.module for t in tensors})
        ahead = len(_buckets(whole, fetched, after=True)) if fetched else modules
        return passes * (2 * ahead + modules), 3 * passes * _padded(whole, world)
    reuse = zero_setting(config, "stage3_max_reuse_distance", KEPT)
    live = zero_setting(config, "stage3_max_live_parameters", KEPT)
    found = gathers_of(tuple(tensors), fetched, reuse, live)
    return passes * found.count, passes * _padded(found.sizes, world)


def features_pass(config: Config, accumulation: int) -> bool:
    """Return whether the features of the whole batch are computed first, in a pass without gradients."""
    return config.losses.negatives == "global_batch" and compares_globally(config.losses) and accumulation > 1


def _buckets(sizes: Iterable[int], most: int, after: bool = False) -> list[int]:
    """Return the values of each message where tensors are put together in their order.

    Args:
        sizes: Values of each tensor.
        most: Values of a message; a larger tensor has one of its own.
        after: Whether a message leaves with the tensor that makes it larger than `most`, instead of before it.
    """
    found: list[int] = []
    filled = 0
    for size in sizes:
        if not after and filled and filled + size > most:
            found.append(filled)
            filled = 0
        filled += size
        if after and filled >= most:
            found.append(filled)
            filled = 0
    return [*found, filled] if filled else found


def _padded(sizes: Iterable[int], to: int) -> int:
    """Return the sum of sizes, each rounded up to a multiple."""
    return sum(math.ceil(size / to) * to for size in sizes)


def zero_setting(config: Config, key: str, default: int) -> int:
    """Return what `engine.deepspeed.zero_optimization` says of a key, or what we tell DeepSpeed."""
    zero: Any = config.engine.deepspeed.get("zero_optimization", {})
    return int(zero.get(key, default))


def _of_losses(config: Config, split: Split, views: Sequence[Views]) -> dict[str, Messages]:
    """Return what the losses and the loop exchange: features, log-sum-exps, sizes, and whether somebody stops."""
    world, micro, accumulation, value = split.world_size, split.micro, split.accumulation, value_bytes(config)
    compared = [o for o in objectives_in_use(config.losses) if o.loss in ("nce", "sigmoid")]
    before = [o for o in compared if not o.reads]
    own = max(sum(_compared_values(config, v, o) for o in compared) for v in views)
    rows = max(sum(_compared_rows(v, o) for o in compared) for v in views)
    treated = max(sum(_compared_rows(v, o) for o in compared if o.duplicates) for v in views)
    identities = IDENTITY_BYTES * treated if config.losses.duplicates != "negatives" else 0
    nce = max(sum(_compared_rows(v, o) for o in compared if o.loss == "nce") for v in views)
    sent = bool(before) + (len(before) < len(compared))
    whole = world * micro * accumulation
    once = config.losses.negatives == "global_batch" and compares_globally(config.losses)
    log_sum_exps = (1 if once else accumulation) if nce else 0
    sizes = 8 * world * accumulation * (4 + config.model.vision.max_frames)
    assert rows >= nce
    return {
        "features": Messages("all_gather", accumulation * sent, whole * (own * value + identities), world),
        "log-sum-exps": Messages("all_gather", log_sum_exps, whole * 12 * nce, world),
        "sizes": Messages("all_gather", 1, sizes, world, on_host=True),
        "stopping": Messages("all_reduce", 1, 2, world, on_host=True),
    }


def _compared_rows(views: Views, objective: Any) -> int:
    """Return the rows of a sample that an objective compares over the global batch."""
    rows = {"samples": 1, "completed": views.completed}[objective.count]
    return rows * (views.frames if objective.per_frame else 1)


def _compared_values(config: Config, views: Views, objective: Any) -> int:
    """Return the values that a sample sends for it: own rows of both sides."""
    width = config.model.fusion.width if objective.reads else config.model.projection
    return 2 * width * _compared_rows(views, objective)
