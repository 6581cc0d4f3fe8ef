"""Forward matmul FLOPs of one sample, and parameters, from the configuration alone.

Every module counts its own (`sclds.model.flops` says what counts); here they are added up over the views, the pairs and
the rows that objectives read. Two schedules are counted: `packed_forward`, which is what `sclds.model` runs,
and `published_forward`, five passes over padded texts, as the method's authors published it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sclds.config import Config
from sclds.costs.tensors import PARTS, model_weights
from sclds.model import flops
from sclds.model.fusion import FusionLayer
from sclds.model.heads import ITMHead, MLMHead, Pooler, Projection, Transform
from sclds.model.text import TEXT_TOWERS
from sclds.model.vision import VISION_TOWERS
from sclds.objectives import objectives_in_use, pairs_in_use, view_names
from sclds.tasks import task_of

Kind = Literal["image", "video"]
Flops = dict[str, int]


@dataclass(frozen=True)
class Views:
    """Sizes of one sample's views, in tokens.

    Attributes:
        frames: Frames per vision view, each with a [CLS] of its own.
        text: Tokens of every text view, BOS and EOS included.
        patches: Patches per frame of a view, by view name (v0, v1, v2).
        predicted: Words that MLM predicts, in t1 or t2.
        completed: Masked positions in t2.
    """

    frames: int
    text: int
    patches: Mapping[str, int]
    predicted: int
    completed: int

    def vision(self, view: str) -> int:
        """Return the tokens of a vision view over all frames."""
        return self.frames * (1 + self.patches[view])


@dataclass(frozen=True)
class Pair:
    """One fusion pair: its views, and the rows of each stream that a head or a target reads."""

    text: str
    vision: str
    text_rows: int
    vision_rows: int


def views_of(config: Config, kind: Kind, text_tokens: int) -> Views:
    """Return the view sizes of one sample of `kind` with a caption of `text_tokens` tokens."""
    side = config.data.image_size if kind == "image" else config.data.video_size
    grid = (side // config.model.vision.patch_size) ** 2
    masking = config.masking
    inner = max(0, text_tokens - 2)
    patches = {"v0": grid, "v1": int(grid * (1 - masking.scl_vision_ratio)), "v2": grid}
    completed = int(inner * masking.scl_text_ratio) + 1 if inner else 0
    predicted = max(1, round(masking.mlm_ratio * inner)) if inner else 0
    return Views(
        frames=1 if kind == "image" else config.data.frames,
        text=text_tokens,
        patches=patches,
        predicted=predicted if config.losses.mlm_view == "t1" else completed,
        completed=completed,
    )


def pairs_of(config: Config, views: Views) -> dict[str, Pair]:
    """Return the fusion pairs that the configured objectives need, and the rows that they read."""
    objectives = objectives_in_use(config.losses)
    replaced = int(views.patches["v0"] * config.masking.mltc_vision_ratio)
    rows = {
        "cls": 1,
        "predicted": views.predicted,
        "completed": views.completed,
        "frame_cls": views.frames,
        "replaced": views.frames * replaced,
    }
    reads = {read for objective in objectives for read in objective.reads}

    def read_of(pair: str, stream: str) -> int:
        return sum(rows[read.rows] for read in reads if (read.pair, read.stream) == (pair, stream))

    return {
        pair.name: Pair(pair.text, pair.vision, read_of(pair.name, "text"), read_of(pair.name, "vision"))
        for pair in pairs_in_use(objectives)
    }


def task_pairs(config: Config, views: Views, asked: int = 1) -> dict[str, Pair]:
    """Return the fusion pairs of a sample of a downstream task that asks so much about its images.

    Images are the views v0.0, v0.1, …, further questions the views t0.1, t0.2, …
    """
    task = task_of(config)
    shown = [f"v0.{number}" for number in range(task.images)]
    shown *= config.batch.group_size if task.reads_captions else 1
    texts = [f"t0.{number}" if number else "t0" for number in range(asked)]
    pairs = [Pair(text, view, 1, views.frames) for text in texts for view in shown]
    return {str(number): pair for number, pair in enumerate(pairs)}


def packed_forward(config: Config, kind: Kind, text_tokens: int, vocab_size: int, asked: int = 1) -> Flops:
    """Return the forward FLOPs of one sample in the packed step, by part; `asked` is of `task_pairs`.

    Every view is encoded once; the first fusion self-attention and the first layer's projections run once per view; the
    last fusion layer computes the rows that are read, and keys and values of all rows that they attend to.
    """
    if config.task is not None:
        return _task_forward(config, kind, text_tokens, asked)
    views = views_of(config, kind, text_tokens)
    pairs, objectives = pairs_of(config, views), objectives_in_use(config.losses)
    text_views, vision_views = view_names(objectives)
    vision_tokens = {view: views.vision(view) for view in vision_views}
    text_tokens_of = dict.fromkeys(text_views, views.text)
    heads = {objective.head for objective in objectives}
    return {
        "vision encoder": _vision(config, views, vision_views),
        "text encoder": sum(_text(config, n) for n in text_tokens_of.values()),
        "transforms": _transforms(config, sum(text_tokens_of.values()), sum(vision_tokens.values())),
        "fusion": _packed_fusion(config, pairs, text_tokens_of, vision_tokens),
        "heads": _heads(config, int("itm" in heads), views.predicted if "mlm" in heads else 0, vocab_size),
    }


def _task_forward(config: Config, kind: Kind, text_tokens: int, asked: int) -> Flops:
    """Return the forward FLOPs of one sample of a downstream task: texts beside an image or two, or beside a group's.

    The heads are counted without the classes, whose number annotations tell.
    """
    views, task = views_of(config, kind, text_tokens), task_of(config)
    pairs = task_pairs(config, views, asked)
    text_tokens_of = dict.fromkeys((pair.text for pair in pairs.values()), views.text)
    vision_tokens = dict.fromkeys((pair.vision for pair in pairs.values()), views.vision("v0"))
    width = config.model.fusion.width
    hidden = flops.linear(1, 2 * width * task.images, int(task.hidden * width)) if task.hidden else 0
    return {
        "vision encoder": task.images * _vision(config, views, ["v0"]),
        "text encoder": asked * _text(config, views.text),
        "transforms": _transforms(config, asked * views.text, sum(vision_tokens.values())),
        "fusion": _packed_fusion(config, pairs, text_tokens_of, vision_tokens),
        "heads": 2 * Pooler.flops(len(pairs), width) + asked * hidden,
    }


def attention_forward(config: Config, kind: Kind, text_tokens: int) -> Flops:
    """Return what of `packed_forward` are the products of attention, whose backward computes the scores again."""
    model, views = config.model, views_of(config, kind, text_tokens)
    objectives = objectives_in_use(config.losses)
    pairs, (texts, visions) = pairs_of(config, views), view_names(objectives)
    vision_tokens = {view: views.vision(view) for view in visions}
    if config.task is not None:
        pairs, texts = task_pairs(config, views), ("t0",)
        vision_tokens = dict.fromkeys((pair.vision for pair in pairs.values()), views.vision("v0"))
    frames, fusion, width = views.frames, model.fusion, model.vision.width
    encoded = 0
    for tokens in vision_tokens.values():
        if model.vision.pools_frames:
            patches = tokens - frames
            own = flops.attention(patches, patches // frames, width)
            encoded += model.vision.layers * own + flops.attention(frames, patches, width)
        else:
            own = flops.attention(tokens - frames, tokens // frames, width) + flops.attention(frames, tokens, width)
            encoded += model.vision.layers * own
    fused = sum(
        max(0, fusion.layers - 1) * _fusion_attention(config, views.text, vision_tokens[pair.vision])
        + _fusion_attention(config, views.text, vision_tokens[pair.vision], pair.text_rows, pair.vision_rows)
        for pair in pairs.values()
    )
    if fusion.layers > 1 and pairs:
        shown = [(views.text, len(pairs) - len(texts))]
        used = [pair.vision for pair in pairs.values()]
        shown += [(tokens, used.count(view) - 1) for view, tokens in vision_tokens.items()]
        fused -= sum(again * flops.attention(tokens, tokens, fusion.width) for tokens, again in shown)
    text = len(texts) * model.text.layers * flops.attention(views.text, views.text, model.text.width)
    return {"vision encoder": encoded, "text encoder": text, "transforms": 0, "fusion": fused, "heads": 0}


def patch_flops(config: Config, kind: Kind, text_tokens: int) -> int:
    """Return the FLOPs of the map of patches in one sample's forward: pixels have no gradient."""
    views, vision = views_of(config, kind, text_tokens), config.model.vision
    images = task_of(config).images if config.task is not None else 1
    return images * flops.linear(views.frames * views.patches["v0"], 3 * vision.patch_size**2, vision.width)


def _fusion_attention(
    config: Config, text: int, vision: int, text_rows: int | None = None, vision_rows: int | None = None
) -> int:
    """Count self- and cross-attention of both streams of one layer on one pair, all rows by default."""
    streams = (
        (text, vision, text if text_rows is None else text_rows),
        (vision, text, vision if vision_rows is None else vision_rows),
    )
    width = config.model.fusion.width
    return sum(flops.attention(rows, own, width) + flops.attention(rows, other, width) for own, other, rows in streams)


def published_forward(config: Config, kind: Kind, vocab_size: int) -> Flops:
    """Return the forward FLOPs of one sample in the published schedule, by part.

    Five passes (contrastive, ITM, MLM, MVSC, MLSC), each over both encoders with the text padded to its maximum; all
    but the contrastive pass go on through the whole fusion encoder; the vision encoder of the MVSC pass sees only the
    kept patches; MLM logits are computed at every position.
    """
    views = views_of(config, kind, config.data.max_text_tokens)
    passes = ["v0", "v0", "v0", "v1", "v0"]
    fused = passes[1:]
    n_text = views.text
    return {
        "vision encoder": sum(_vision(config, views, [view]) for view in passes),
        "text encoder": len(passes) * _text(config, n_text),
        "transforms": _transforms(config, len(passes) * n_text, sum(views.vision(view) for view in passes)),
        "fusion": config.model.fusion.layers * sum(_fusion_layer(config, n_text, views.vision(view)) for view in fused),
        "heads": _heads(config, 1, n_text, vocab_size),
    }


def parameter_counts(config: Config, vocab_size: int) -> dict[str, int]:
    """Return the trainable parameters of each part of the model, read off the model itself without allocating it."""
    weights = model_weights(config, vocab_size)
    return {part: sum(weight.numel for weight in weights if weight.part == part) for part in PARTS}


def _vision(config: Config, views: Views, shown: Sequence[str]) -> int:
    """Count the vision encoder on the views `shown`, patches embedded once."""
    vision = config.model.vision
    patches = [views.patches[view] for view in shown]
    return VISION_TOWERS[vision.type].flops(vision, views.frames, views.patches["v0"], patches)


def _text(config: Config, tokens: int) -> int:
    """Count the text encoder on one view."""
    return TEXT_TOWERS[config.model.text.type].flops(config.model.text, tokens)


def _transforms(config: Config, text: int, vision: int) -> int:
    """Count the linear maps from the encoders to fusion."""
    model, out = config.model, config.model.fusion.width
    return Transform.flops(text, model.text.width, out) + Transform.flops(vision, model.vision.width, out)


def _fusion_layer(
    config: Config, text: int, vision: int, text_rows: int | None = None, vision_rows: int | None = None
) -> int:
    """Count both streams of one fusion layer on one pair, all rows by default."""
    streams = ((text, vision, text_rows), (vision, text, vision_rows))
    fusion = config.model.fusion
    return sum(FusionLayer.flops(fusion, own, other, own if rows is None else rows) for own, other, rows in streams)


def _packed_fusion(
    config: Config, pairs: Mapping[str, Pair], text_tokens: Mapping[str, int], vision_tokens: Mapping[str, int]
) -> int:
    """Count fusion in the packed step: first layer shared by view, last layer on the rows that are read."""
    layers = config.model.fusion.layers
    if not pairs:
        return 0
    total = 0
    for pair in pairs.values():
        text, vision = text_tokens[pair.text], vision_tokens[pair.vision]
        total += max(0, layers - 1) * _fusion_layer(config, text, vision)
        total += _fusion_layer(config, text, vision, pair.text_rows, pair.vision_rows)
    return total - _shared_first_layer(config, pairs, text_tokens, vision_tokens)


def _shared_first_layer(
    config: Config, pairs: Mapping[str, Pair], text_tokens: Mapping[str, int], vision_tokens: Mapping[str, int]
) -> int:
    """Return what running the first layer's self-attention and cross-attention Q, K, V once per view saves.

    A view that no pair shows runs through them all the same.
    """
    if config.model.fusion.layers < 2:
        return 0  # the only layer is then the last, which is computed for the rows of each pair
    saved = 0
    for side, tokens in (("text", text_tokens), ("vision", vision_tokens)):
        used = [getattr(pair, side) for pair in pairs.values()]
        for view, n in tokens.items():
            saved += (used.count(view) - 1) * FusionLayer.first_layer_flops(config.model.fusion.width, n)
    return saved


def _heads(config: Config, matched: int, words: int, vocab_size: int) -> int:
    """Count contrastive projections, poolers with the ITM head of `matched` pairs, and the MLM head of `words`."""
    width = config.model.fusion.width
    contrastive = 2 * Projection.flops(1, width, config.model.projection)
    matching = 2 * Pooler.flops(matched, width) + ITMHead.flops(matched, width)
    return contrastive + matching + MLMHead.flops(words, width, vocab_size)
