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
from sclds.costs.communication import Messages, features_pass, step_messages
from sclds.costs.counts import Kind, attention_forward, packed_forward, parameter_counts, patch_flops
from sclds.costs.host import engine_work, hooked, host_seconds
from sclds.costs.layers import micro_batch_work
from sclds.costs.operators import Counted, Pass, added
from sclds.costs.rows import Rows, micro_batch_rows
from sclds.costs.stages import value_bytes
from sclds.costs.state import exact_state
from sclds.costs.tensors import parameter_tensors


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


def step_factor(config: Config, accumulation: int) -> int:
    """Return the FLOPs of a training step as a multiple of its forward's."""
    return 3 + config.engine.activation_checkpointing + features_pass(config, accumulation)


def step_counts(config: Config, split: Split, *, text_tokens: int, vocabulary: int, fused: bool = True) -> StepCounts:
    """Count an optimizer step of one GPU.

    Args:
        config: The run.
        split: Of its global batch.
        text_tokens: Of a caption, BOS and EOS included.
        vocabulary: Rows of the word embedding.
        fused: Whether our kernels run, or PyTorch's operators.
    """
    shares = kind_shares(config)
    samples = samples_by_kind(shares, split.micro)
    kinds, stage = [kind for kind, count in samples.items() if count], config.engine.zero_stage
    rows = micro_batch_rows(config, samples, text_tokens)
    forward, backward, again = _passes(config, rows, vocabulary, fused)
    accumulation, first = split.accumulation, features_pass(config, split.accumulation)
    optimizer = engine_work(config, vocabulary, split)
    passes = {
        "forward": (forward, accumulation * (1 + first)),
        "backward": (backward, accumulation),
        "recomputed": (again, accumulation * config.engine.activation_checkpointing),
        "engine": (optimizer, 1),
    }
    messages = step_messages(config, split, kinds, text_tokens, vocabulary)
    launches = {name: count * one.launches for name, (one, count) in passes.items()}
    activations = [activation_bytes(config, split.micro, kind, text_tokens, vocabulary, fused) for kind in kinds]
    return StepCounts(
        flops=step_flops(config, samples, text_tokens, vocabulary, accumulation),
        parameters=parameter_counts(config, vocabulary),
        state=exact_state(config, vocabulary, split.world_size),
        activations=max(activations, key=lambda parts: sum(parts.values())),
        messages=messages,
        launches=launches,
        elementwise_bytes={name: count * one.bytes for name, (one, count) in passes.items()},
        host_seconds=host_seconds(
            launches=sum(launches.values()),
            gradients=accumulation * len(parameter_tensors(config, vocabulary)) if stage else 0,
            hooked=accumulation * (2 + first) * hooked(config, vocabulary) if stage == 3 else 0,
            messages=sum(sent.count for sent in messages.values()),
        ),
    )


def samples_by_kind(shares: Mapping[Kind, float], samples: int) -> dict[Kind, int]:
    """Return how many of so many samples are of each kind, on average; the last takes what rounding leaves."""
    found: dict[Kind, int] = {}
    for number, (kind, share) in enumerate(shares.items(), 1):
        rest = samples - sum(found.values())
        found[kind] = rest if number == len(shares) else min(rest, round(share * samples))
    return found


def step_flops(
    config: Config, samples: Mapping[Kind, int], text_tokens: int, vocab_size: int, accumulation: int
) -> dict[str, int]:
    """Return the FLOPs of matrix products of a step, by part.

    Backward multiplies twice what forward multiplied once, for the input and for the weight; of attention it is 2.5
    times, since the scores are computed again, and of patches once, since pixels have no gradient. Activation
    checkpointing repeats the forward of transformer layers.
    """
    found: dict[str, int] = {}
    forwards, again = 1 + features_pass(config, accumulation), config.engine.activation_checkpointing
    for kind, count in samples.items():
        products = packed_forward(config, kind, text_tokens, vocab_size)
        attention = attention_forward(config, kind, text_tokens)
        for part, forward in products.items():
            patches = patch_flops(config, kind, text_tokens) if part == "vision encoder" else 0
            layers = 0 if part in ("transforms", "heads") else forward - patches
            backward = 2 * forward - patches + attention[part] // 2 + again * layers
            found[part] = found.get(part, 0) + accumulation * count * (forwards * forward + backward)
    return found


def _passes(config: Config, rows: Rows, vocab_size: int, fused: bool) -> tuple[Pass, Pass, Pass]:
    """Return forward and backward of a micro-batch, and the layers' forwards that activation checkpointing repeats."""
    parts = micro_batch_work(Counted(config, rows, vocab_size, value_bytes(config), fused)).values()
    works = [work for part in parts for work in part.works]
    layers = [work for part in parts for work, _ in part.layers]
    return added(w.forward for w in works), added(w.backward for w in works), added(w.forward for w in layers)
