"""What one GPU does in a step of ours: the counts of `sclds.costs.step` as the work that `sclds.costs.predict` times.

Operations of products are those that are counted; of their shapes it is known how many rows a part of the model
multiplies at once and how wide its layers are, so that they are taken as those of a transformer layer.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sclds.batch.split import Split
from sclds.config import Config
from sclds.costs.counts import Kind, attention_forward, packed_forward
from sclds.costs.predict import Message, Product, StepWork, layer_products, scaled
from sclds.costs.rows import Rows, micro_batch_rows
from sclds.costs.stages import value_bytes
from sclds.costs.step import StepCounts, features_pass, samples_by_kind, step_counts

IMAGE_CORE_SECONDS = 2.4e-3
"""Of one core for reading and decoding an image, captions, masks and packing included: `sclds benchmark data`, 414
images of 500 × 375 a second and core of an AMD EPYC 7003 (docs/decoding.md)."""
VIDEO_CORE_SECONDS, FRAME_CORE_SECONDS = 16e-3, 4e-3
"""Of one core for finding the frames of a video, and for decoding each: MPEG-4 of 320 × 240 (docs/decoding.md)."""
HIDDEN = ("gradients", "features")
"""Messages that run beside the device's work; at stage 3 also the parameters', which are fetched ahead."""


@dataclass(frozen=True)
class Mix:
    """What the samples of a run are like."""

    shares: Mapping[Kind, float]
    text_tokens: int
    vocab_size: int


def counts_of(config: Config, split: Split, mix: Mix, fused: bool = True) -> StepCounts:
    """Return everything that is counted of a step.

    Args:
        config: The run.
        split: Of its batch.
        mix: Of samples.
        fused: Whether our kernels run, as on a GPU, or PyTorch's operators.
    """
    return step_counts(config, split, text_tokens=mix.text_tokens, vocabulary=mix.vocab_size, fused=fused)


def bytes_by_part(counts: StepCounts) -> dict[str, int]:
    """Return bytes of model state and activations of one GPU, by part."""
    return {**counts.state, "activations": sum(counts.activations.values())}


def step_work(config: Config, split: Split, mix: Mix, counts: StepCounts) -> StepWork:
    """Return what one device does in an optimizer step.

    Args:
        config: The run.
        split: Of its batch.
        mix: Of samples.
        counts: Of the step.
    """
    samples = split.micro * split.accumulation
    by_kind = samples_by_kind(mix.shares, split.micro)
    rows = micro_batch_rows(config, by_kind, mix.text_tokens)
    attention = _attention_flops(config, split, by_kind, mix)
    products: list[Product] = []
    for part, shape in _shapes(config, rows).items():
        products += scaled(shape, counts.flops[part] - attention.get(part, 0.0))
    hidden = (*HIDDEN, "parameters") if config.engine.zero_stage == 3 else HIDDEN
    forward = sum(
        count * sum(packed_forward(config, kind, mix.text_tokens, mix.vocab_size).values())
        for kind, count in by_kind.items()
    )
    return StepWork(
        samples=samples,
        model_flops=3 * split.accumulation * forward,
        products=tuple(products),
        attention_flops=sum(attention.values()),
        elementwise_bytes=sum(counts.elementwise_bytes.values()),
        value_bytes=value_bytes(config),
        precision=config.engine.precision,
        host_seconds=counts.host_seconds,
        core_seconds=samples * sum(share * core_seconds(config, kind) for kind, share in mix.shares.items()),
        messages={what: Message(m.count, m.bytes, what in hidden) for what, m in counts.messages.items()},
    )


def core_seconds(config: Config, kind: Kind) -> float:
    """Return the time of one core for reading and decoding a sample."""
    if kind == "image":
        return IMAGE_CORE_SECONDS
    return VIDEO_CORE_SECONDS + FRAME_CORE_SECONDS * config.data.frames


def _attention_flops(config: Config, split: Split, samples: Mapping[Kind, int], mix: Mix) -> dict[str, float]:
    """Return the operations of attention in a step: 2.5 times a forward's in backward."""
    forwards = 1 + features_pass(config, split.accumulation) + config.engine.activation_checkpointing
    found: dict[str, float] = {}
    for kind, count in samples.items():
        for part, flops in attention_forward(config, kind, mix.text_tokens).items():
            found[part] = found.get(part, 0.0) + split.accumulation * count * (forwards + 2.5) * flops
    return found


def _shapes(config: Config, rows: Rows) -> dict[str, tuple[Product, ...]]:
    """Return the products of one layer of each part, or of the largest of its maps."""
    model = config.model
    vision, text, fusion = model.vision, model.text, model.fusion
    pairs = (rows.pair_text, rows.pair_vision) if rows.pair_text else (rows.text, rows.vision)
    streams = [layer_products(own, fusion.width, fusion.mlp_ratio * fusion.width, 1) for own in pairs]
    return {
        "vision encoder": layer_products(rows.vision, vision.width, vision.inner_width, 1),
        "text encoder": layer_products(rows.text, text.width, 4 * text.width, 1),
        "transforms": (Product(rows.vision, vision.width, fusion.width),),
        "fusion": streams[0] + streams[1],
        "heads": (Product(max(rows.samples, rows.words), fusion.width, fusion.width),),
    }
