"""Forward matmul FLOPs of one sample, and parameters, from the configuration alone.

A matrix product of (m, k) by (k, n) counts 2·m·k·n; attention counts both of its products. Norms, softmax and other
element-wise work are left out, as usual. Two schedules are counted: `packed_forward`, which is what `sclds.model` runs,
and `published_forward`, five passes over padded texts, as the method's authors published it.

Legend: d width, n tokens of a view, q rows whose output is wanted.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sclds.config import Config
from sclds.objectives import objectives_in_use, pairs_in_use, view_names

Kind = Literal["image", "video"]
Flops = dict[str, int]

ITM_CLASSES = 2


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


def linear(rows: int, inputs: int, outputs: int) -> int:
    """Return the FLOPs of a linear map of `rows` rows."""
    return 2 * rows * inputs * outputs


def attention(queries: int, keys: int, width: int) -> int:
    """Return the FLOPs of QKᵀ and of the weighted sum of values."""
    return 4 * queries * keys * width


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


def packed_forward(config: Config, kind: Kind, text_tokens: int, vocab_size: int) -> Flops:
    """Return the forward FLOPs of one sample in the packed step, by part.

    Every view is encoded once; the first fusion self-attention and the first layer's projections run once per view; the
    last fusion layer computes the rows that are read, and keys and values of all rows that they attend to.
    """
    views = views_of(config, kind, text_tokens)
    pairs = pairs_of(config, views)
    text_views, vision_views = view_names(objectives_in_use(config.losses))
    vision_tokens = {view: views.vision(view) for view in vision_views}
    text_tokens_of = dict.fromkeys(text_views, views.text)
    return {
        "vision encoder": _patch_embedding(config, views)
        + sum(_vision_blocks(config, views.frames, views.patches[view]) for view in vision_views),
        "text encoder": sum(_text_layers(config, n) for n in text_tokens_of.values()),
        "transforms": _transforms(config, sum(text_tokens_of.values()), sum(vision_tokens.values())),
        "fusion": _packed_fusion(config, pairs, text_tokens_of, vision_tokens),
        "heads": _heads(config, "itm" in pairs, views.predicted if config.losses.mlm > 0 else 0, vocab_size),
    }


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
        "vision encoder": sum(
            _patch_embedding(config, views) + _vision_blocks(config, views.frames, views.patches[view])
            for view in passes
        ),
        "text encoder": len(passes) * _text_layers(config, n_text),
        "transforms": _transforms(config, len(passes) * n_text, sum(views.vision(view) for view in passes)),
        "fusion": sum(_full_fusion(config, n_text, views.vision(view)) for view in fused),
        "heads": _heads(config, True, n_text, vocab_size),
    }


def parameter_counts(config: Config, vocab_size: int) -> dict[str, int]:
    """Return the trainable parameters of each part of the model."""
    model = config.model
    v, t, f = model.vision, model.text, model.fusion
    grid = (v.pretrained_image_size // v.patch_size) ** 2
    vision_tables = (2 + 1 + grid + v.max_frames) * v.width  # [CLS], mask token, positions, temporal
    text_tables = (vocab_size + t.max_positions + 1 + 2) * t.width  # words, positions, one token type, norm
    vision_block = 4 * (v.width**2 + v.width) + 2 * 4 * v.width**2 + 5 * v.width + 4 * v.width
    text_block = 4 * (t.width**2 + t.width) + 2 * 4 * t.width**2 + 5 * t.width + 4 * t.width
    inner = f.mlp_ratio * f.width
    fusion_layer = 8 * (f.width**2 + f.width) + 2 * f.width * inner + f.width + inner + 6 * f.width
    projection = f.width**2 + f.width + 2 * f.width + f.width * model.projection + model.projection
    return {
        "vision encoder": 3 * v.patch_size**2 * v.width + vision_tables + v.layers * vision_block + 4 * v.width,
        "text encoder": text_tables + t.layers * text_block,
        "fusion": (v.width + 1) * f.width
        + (t.width + 1) * f.width
        + f.token_types * f.width
        + 2 * f.layers * fusion_layer
        + 2 * (f.width**2 + f.width),
        "heads": (2 * f.width + 1) * ITM_CLASSES
        + f.width**2
        + 3 * f.width
        + (f.width + 1) * vocab_size
        + 2 * projection
        + 1,
    }


def _patch_embedding(config: Config, views: Views) -> int:
    """Count the patch embedding of all frames of one sample."""
    vision = config.model.vision
    return linear(views.frames * views.patches["v0"], 3 * vision.patch_size**2, vision.width)


def _vision_blocks(config: Config, frames: int, patches: int) -> int:
    """Count all blocks of the vision encoder on one view: patches attend to their frame, a [CLS] to all frames."""
    d = config.model.vision.width
    n = frames * (1 + patches)
    attended = attention(frames * patches, 1 + patches, d) + attention(frames, n, d)
    return config.model.vision.layers * (linear(n, d, 4 * d) + 2 * linear(n, d, 4 * d) + attended)


def _text_layers(config: Config, n: int) -> int:
    """Count all layers of the text encoder on one view of n tokens."""
    d = config.model.text.width
    return config.model.text.layers * (linear(n, d, 4 * d) + 2 * linear(n, d, 4 * d) + attention(n, n, d))


def _transforms(config: Config, text: int, vision: int) -> int:
    """Count the linear maps from the encoders to fusion."""
    model = config.model
    return linear(text, model.text.width, model.fusion.width) + linear(vision, model.vision.width, model.fusion.width)


def _self_attention(n: int, d: int, rows: int) -> int:
    """Count self-attention over n tokens of which `rows` are wanted; keys and values are of all."""
    return linear(rows, d, 2 * d) + linear(n, d, 2 * d) + attention(rows, n, d) if rows else 0


def _feed_forward(config: Config, rows: int) -> int:
    """Count the feed-forward network of fusion."""
    fusion = config.model.fusion
    return 2 * linear(rows, fusion.width, fusion.mlp_ratio * fusion.width)


def _full_fusion(config: Config, text: int, vision: int, layers: int | None = None) -> int:
    """Count `layers` whole fusion layers (all of them by default) on one pair."""
    d = config.model.fusion.width
    layer = 0
    for own, other in ((text, vision), (vision, text)):
        crossed = linear(own, d, 2 * d) + linear(other, d, 2 * d) + attention(own, other, d)
        layer += _self_attention(own, d, own) + crossed + _feed_forward(config, own)
    return (config.model.fusion.layers if layers is None else layers) * layer


def _packed_fusion(
    config: Config, pairs: Mapping[str, Pair], text_tokens: Mapping[str, int], vision_tokens: Mapping[str, int]
) -> int:
    """Count fusion in the packed step: first layer shared by view, last layer on the rows that are read."""
    d, layers = config.model.fusion.width, config.model.fusion.layers
    if not pairs:
        return 0
    total = 0
    for pair in pairs.values():
        text, vision = text_tokens[pair.text], vision_tokens[pair.vision]
        total += _full_fusion(config, text, vision, max(0, layers - 1))
        for own, other, rows in ((text, vision, pair.text_rows), (vision, text, pair.vision_rows)):
            if rows:
                crossed = linear(rows, d, 2 * d) + linear(other, d, 2 * d) + attention(rows, other, d)
                total += _self_attention(own, d, rows) + crossed + _feed_forward(config, rows)
    return total - _shared_first_layer(d, layers, pairs, text_tokens, vision_tokens)


def _shared_first_layer(
    d: int, layers: int, pairs: Mapping[str, Pair], text_tokens: Mapping[str, int], vision_tokens: Mapping[str, int]
) -> int:
    """Return what running the first layer's self-attention and cross-attention Q, K, V once per view saves.

    A view that no pair shows runs through them all the same.
    """
    if layers < 2:
        return 0  # the only layer is then the last, which is computed for the rows of each pair
    saved = 0
    for side, tokens in (("text", text_tokens), ("vision", vision_tokens)):
        used = [getattr(pair, side) for pair in pairs.values()]
        for view, n in tokens.items():
            saved += (used.count(view) - 1) * (_self_attention(n, d, n) + linear(n, d, 3 * d))
    return saved


def _heads(config: Config, itm: bool, mlm_rows: int, vocab_size: int) -> int:
    """Count contrastive projections, poolers with the ITM head, and the MLM head."""
    d = config.model.fusion.width
    contrastive = 2 * (linear(1, d, d) + linear(1, d, config.model.projection))
    matching = 2 * linear(1, d, d) + linear(1, 2 * d, ITM_CLASSES) if itm else 0
    words = linear(mlm_rows, d, d) + linear(mlm_rows, d, vocab_size)
    return contrastive + matching + words
