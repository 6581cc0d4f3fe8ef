"""What one GPU does in a step of ours: the counts of `sclds.costs` as the work that `sclds.costs.predict` times."""

from collections.abc import Mapping
from dataclasses import dataclass

from sclds.batch.split import Split
from sclds.config import Config
from sclds.costs.counts import Kind, packed_forward, pairs_of, parameter_counts, views_of
from sclds.costs.predict import Message, Product, StepWork, layer_products, scaled
from sclds.costs.stages import gradient_bytes, state_bytes, value_bytes
from sclds.objectives import compares_globally, objectives_in_use, view_names

IMAGE_CORE_SECONDS = 2.4e-3
"""Of one core for reading and decoding an image, captions, masks and packing included: `sclds benchmark data`, 414
images of 500 × 375 a second and core of an AMD EPYC 7003 (docs/decoding.md)."""
VIDEO_CORE_SECONDS, FRAME_CORE_SECONDS = 16e-3, 4e-3
"""Of one core for finding the frames of a video, and for decoding each: 320 × 240 MPEG-4 on the same (docs/decoding.md)."""
ACTIVATION_VALUES = {"vision": 17, "text": 18, "fusion": 28}
MOVED_VALUES = 54.7
"""Reads and writes of element-wise operators per token, layer and channel: 60.5 GB of a micro-batch of the base model."""
LAYER_HOST_SECONDS = {0: 2.8e-3, 1: 3.2e-3, 2: 3.3e-3, 3: 5.5e-3}


@dataclass(frozen=True)
class Mix:
    """What the samples of a run are like."""

    shares: Mapping[Kind, float]
    text_tokens: int
    vocab_size: int


def memory_per_gpu(config: Config, split: Split, mix: Mix) -> dict[str, int]:
    """Return bytes of model state and (estimated) activations of one GPU, by part."""
    parameters = sum(parameter_counts(config, mix.vocab_size).values())
    activations = split.micro * max(_activation_bytes(config, kind, mix.text_tokens) for kind in mix.shares)
    return state_bytes(config, parameters, split.world_size) | {"activations": activations}


def step_work(config: Config, split: Split, mix: Mix) -> StepWork:
    """Return what one GPU does in an optimizer step."""
    wire = communication_per_step(config, split, mix)

    factor = step_factor(config, split.accumulation) * split.accumulation
    value = 2 if config.engine.precision == "bf16" else 4
    products: list[Product] = []
    attention = moved = 0.0
    for kind, share in mix.shares.items():
        samples = split.micro * share
        parts = packed_forward(config, kind, mix.text_tokens, mix.vocab_size)
        for part, (tokens, width, inner, layers, attended) in _shapes(config, kind, mix.text_tokens).items():
            rows = samples * tokens
            inside = samples * attended * factor
            products += scaled(layer_products(rows, width, inner, layers), samples * parts[part] * factor - inside)
            attention += inside * 3.5 / 3
            moved += rows * width * layers * value * MOVED_VALUES * factor / 3
        rest = parts["transforms"] + parts["heads"]
        width = config.model.fusion.width
        products += scaled([Product(samples * 30, width, width)], samples * rest * factor)
    core = sum(share * core_seconds(config, kind) for kind, share in mix.shares.items())
    layers = config.model.vision.layers + config.model.text.layers + 2 * config.model.fusion.layers
    passes = split.accumulation * factor / (3 * split.accumulation)
    samples = split.micro * split.accumulation
    return StepWork(
        samples=samples,
        model_flops=3
        * samples
        * sum(
            share * sum(packed_forward(config, kind, mix.text_tokens, mix.vocab_size).values())
            for kind, share in mix.shares.items()
        ),
        products=tuple(products),
        attention_flops=attention,
        elementwise_bytes=moved,
        value_bytes=value,
        precision=config.engine.precision,
        host_seconds=LAYER_HOST_SECONDS[config.engine.zero_stage] * layers * passes + 0.03,
        core_seconds=samples * core,
        messages={what: Message(8, size, what != "parameter all-gather") for what, size in wire.items()},
    )


def core_seconds(config: Config, kind: Kind) -> float:
    """Return the time of one core for reading and decoding a sample."""
    if kind == "image":
        return IMAGE_CORE_SECONDS
    return VIDEO_CORE_SECONDS + FRAME_CORE_SECONDS * config.data.frames


def _shapes(config: Config, kind: Kind, text_tokens: int) -> dict[str, tuple[int, int, int, int, float]]:
    model, views = config.model, views_of(config, kind, text_tokens)
    texts, visions = view_names(objectives_in_use(config.losses))
    pairs = pairs_of(config, views).values()
    seen = {view: views.vision(view) for view in visions}
    fused = sum(views.text + seen[pair.vision] for pair in pairs)
    crossed = sum((views.text + seen[pair.vision]) ** 2 for pair in pairs)
    vision, text, fusion = model.vision, model.text, model.fusion
    squares = sum(views.frames * (1 + views.patches[view]) ** 2 for view in visions)
    return {
        "vision encoder": (
            sum(seen.values()),
            vision.width,
            vision.inner_width,
            vision.layers,
            4.0 * squares * vision.width * vision.layers,
        ),
        "text encoder": (
            len(texts) * views.text,
            text.width,
            4 * text.width,
            text.layers,
            4.0 * len(texts) * views.text**2 * text.width * text.layers,
        ),
        "fusion": (
            fused,
            fusion.width,
            fusion.mlp_ratio * fusion.width,
            fusion.layers,
            4.0 * crossed * fusion.width * (fusion.layers - 1),
        ),
    }


def communication_per_step(config: Config, split: Split, mix: Mix) -> dict[str, int]:
    """Return the bytes that one GPU receives in an optimizer step, by part."""
    parameters = sum(parameter_counts(config, mix.vocab_size).values())
    frames = config.data.frames if "video" in mix.shares else 1
    world = split.world_size
    value = value_bytes(config)
    others, gradients = (parameters * size * (world - 1) // world for size in (value, gradient_bytes(config)))
    two_pass = config.losses.negatives == "global_batch" and split.accumulation > 1
    forwards = split.accumulation * (2 if two_pass else 1)
    model = config.model
    feature = 4 * (2 * model.projection + 2 * model.fusion.width * (1 + frames))
    features = config.batch.global_size * (world - 1) // world * feature
    if config.engine.zero_stage == 3:
        gathers, reduces = (forwards + split.accumulation) * others, split.accumulation * gradients
    elif config.engine.zero_stage == 2:
        gathers, reduces = others, split.accumulation * gradients
    else:
        # DeepSpeed's optimizer of stage 1 for bf16 sums all of an fp32 gradient on every rank, as stage 0 does
        everywhere = config.engine.zero_stage == 0 or gradient_bytes(config) > value
        gathers, reduces = others * config.engine.zero_stage, (2 if everywhere else 1) * gradients
    return {"parameter all-gather": gathers, "gradient reduction": reduces, "features": features}


def _activation_bytes(config: Config, kind: Kind, text_tokens: int) -> int:
    """Estimate the activations that one sample keeps for backward."""
    model, views = config.model, views_of(config, kind, text_tokens)
    value = 2 if config.engine.precision == "bf16" else 4
    text_views, vision_views = view_names(objectives_in_use(config.losses))
    vision, text = sum(views.vision(view) for view in vision_views), len(text_views) * views.text
    fused = sum(views.text + views.vision(pair.vision) for pair in pairs_of(config, views).values())
    parts = (
        (vision * model.vision.width, model.vision.layers, ACTIVATION_VALUES["vision"]),
        (text * model.text.width, model.text.layers, ACTIVATION_VALUES["text"]),
        (fused * model.fusion.width, model.fusion.layers, ACTIVATION_VALUES["fusion"]),
    )
    if config.engine.activation_checkpointing:
        largest = max(channels * values for channels, _, values in parts)
        return value * (sum(channels * layers for channels, layers, _ in parts) + largest)
    return value * sum(channels * layers * values for channels, layers, values in parts)


def step_factor(config: Config, accumulation: int) -> int:
    """Return the FLOPs of a training step as a multiple of its forward's."""
    recompute = 1 if config.engine.activation_checkpointing else 0
    global_negatives = config.losses.negatives == "global_batch" and compares_globally(config.losses)
    features = 1 if global_negatives and accumulation > 1 else 0
    return 3 + recompute + features
