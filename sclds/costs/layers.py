"""The operators of a micro-batch, layer by layer, in the order of the model's forward (`sclds.costs.operators`).

Formulas of the configuration alone; nothing is built or run. Each function reads beside the module that it counts.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from sclds.batch import grids_of
from sclds.config import VisionConfig
from sclds.costs.head_work import count_heads, count_losses
from sclds.costs.operators import FP32, INDEX, Counted, Work
from sclds.costs.rows import Rows
from sclds.model.vision import VISION_TOWERS
from sclds.objectives.table import Stream

ANGLE_LAUNCHES = 21
"""Launches of making rotary angles for the tokens of a micro-batch."""


@dataclass
class PartWork:
    """What one part of the model costs."""

    layers: list[tuple[Work, int]] = field(default_factory=list)
    """Work of each transformer layer, and the bytes of its inputs, which activation checkpointing keeps instead."""
    rest: list[Work] = field(default_factory=list)

    @property
    def works(self) -> list[Work]:
        """All of it."""
        return [work for work, _ in self.layers] + self.rest

    def kept(self) -> int:
        """Return the bytes that autograd keeps for backward."""
        return sum(work.kept for work in self.works)

    def kept_inputs(self) -> int:
        """Return the bytes kept with activation checkpointing; the layer that is computed again comes to it."""
        return sum(work.kept for work in self.rest) + sum(inputs for _, inputs in self.layers)

    def working(self) -> int:
        """Return the bytes that backward holds beside what is kept, where they are most."""
        return max((work.working for work in self.works), default=0)

    def largest_layer(self) -> int:
        """Return the bytes of the layer that keeps most."""
        return max((work.kept for work, _ in self.layers), default=0)


def micro_batch_work(counted: Counted) -> dict[str, PartWork]:
    """Return the work of a micro-batch's forward and backward, loss included, by part."""
    return {
        "vision encoder": _vision_encoder(counted),
        "text encoder": _text_encoder(counted),
        "fusion": _fusion(counted),
        "heads": PartWork(rest=[counted.work(lambda work: count_heads(work, counted))]),
        "losses": PartWork(rest=[counted.work(lambda work: count_losses(work, counted))]),
    }


def _text_encoder(counted: Counted) -> PartWork:
    text, rows = counted.config.model.text, counted.rows.text
    width, drops = text.width, text.dropout > 0
    tables = (counted.vocab_size, text.max_positions, 1)

    def embedding(work: Work) -> None:
        work.forward.run(INDEX * 2 * rows)  # the type of every token, zeros
        work.embed(rows, width, tables, special=0)
        work.kept += INDEX * rows
        if drops:
            work.dropout(rows, width)

    def layer(work: Work) -> None:
        work.keep(rows * width, 3 * rows * width)  # read by qkv, and what attention reads
        work.linear(rows, width, 3 * width)
        work.attention(rows, width, text.heads)
        work.linear(rows, width, width)
        work.sum_norm(rows, width, drops)
        _mlp(work, rows, width, 4 * width, "gelu")
        work.sum_norm(rows, width, drops)
        for _ in range(2):  # both residuals
            work.add_gradients(rows, width)

    inputs = counted.value * rows * width
    return PartWork([(counted.work(layer), inputs) for _ in range(text.layers)], [counted.work(embedding)])


def _mlp(work: Work, rows: int, width: int, inner: int, kind: str) -> None:
    work.keep(rows * width)
    work.hold(rows * inner, rows * width)  # gradients of what is between the maps, and of what comes out
    work.linear(rows, width, inner, bias=False)  # which the activation adds, or sums the gradient of
    work.activation(rows, inner, kind)
    work.linear(rows, inner, width)


def _vision_encoder(counted: Counted) -> PartWork:
    vision, rows = counted.config.model.vision, counted.rows
    tokens = rows.vision - (rows.view_frames if vision.pools_frames else 0)
    activation = vision.activation or VISION_TOWERS[vision.type].activation
    width, inner = vision.width, vision.inner_width

    def block(work: Work) -> None:
        work.keep(tokens * width, tokens * width, 3 * tokens * width)  # read by the norm, by qkv, and by attention
        work.layer_norm(tokens, width)
        work.linear(tokens, width, 3 * width)
        if vision.type == "perception_encoder":
            _rotary(work, tokens, width)
        work.attention(tokens, width, vision.heads)
        if rows.video and not vision.pools_frames:
            _frame_cls(work, rows, vision)
        work.linear(tokens, width, width)
        work.sum_norm(tokens, width, drops=False, sum_is_read=True)
        _mlp(work, tokens, width, inner, activation)
        work.add(tokens, width)
        work.add_gradients(tokens, width)

    def ends(work: Work) -> None:
        _patch_embedding(work, counted, tokens)
        if vision.type == "perception_encoder":
            work.forward.run(launches=ANGLE_LAUNCHES)
        work.keep(tokens * width)  # read by the last norm
        work.layer_norm(tokens, width)

    rest = [counted.work(ends)]
    if vision.pools_frames:
        rest.append(counted.work(lambda work: _attention_pooling(work, counted, tokens, activation)))
    blocks = [(counted.work(block), counted.value * tokens * width) for _ in range(vision.layers)]
    return PartWork(blocks, rest)


def _patch_embedding(work: Work, counted: Counted, tokens: int) -> None:
    """Count the map of patches, the position tables of all grids, and the gather into packed tokens."""
    vision, rows = counted.config.model.vision, counted.rows
    width, pixels, native = vision.width, 3 * vision.patch_size**2, vision.pretrained_image_size // vision.patch_size
    grids = set(grids_of(counted.config))
    work.keep(rows.patches * pixels, rows.patches * width)
    work.linear(rows.patches, pixels, width, bias=vision.pools_frames, input_gradient=False)
    work.forward.run(2 * work.value * sum(1 + grid**2 for grid in grids) * width)
    for grid in grids - {native}:
        work.forward.run(4 * FP32 * grid**2 * width, 4)
        work.backward.run(8 * FP32 * grid**2 * width, 8)
    tables = (rows.patches, sum(1 + grid**2 for grid in grids), vision.max_frames)
    if not vision.pools_frames:
        work.embed(tokens, width, tables, special=2)
        return
    for table in tables:
        work.gather(table, rows.vision, width)
    for _ in range(2):
        work.add(rows.vision, width)
    work.gather(rows.vision, tokens, width)
    work.gather(rows.vision, rows.view_frames, width)


def _rotary(work: Work, rows: int, width: int) -> None:
    """Turn queries and keys, which attention then reads beside the product's values."""
    work.keep(2 * rows * width)
    for _ in range(2):
        work.forward.run((8 * FP32 + 3 * work.value) * rows * width, 8)
        work.backward.run((8 * FP32 + 8 * work.value) * rows * width, 12)
    work.backward.run(6 * work.value * rows * width)  # what attention gave apart, in one tensor


def _frame_cls(work: Work, rows: Rows, vision: VisionConfig) -> None:
    """Let the frame [CLS] tokens of videos attend to all frames, and put them among the other rows."""
    width = vision.width
    work.index(rows.vision, rows.video_frames, width)
    work.attention(rows.video_frames, width, vision.heads)
    work.keep(rows.video_frames * width)
    for _ in range(2):
        work.part_of(rows.vision, rows.video, width)
    work.keep(rows.vision * width)  # a copy, of which frame [CLS] rows are others
    work.forward.run(work.value * 2 * (rows.vision + rows.video_frames) * width)
    work.backward.run(work.value * 2 * (rows.vision + rows.video_frames) * width, 2)
    work.backward.run(work.value * (6 + 9) * rows.vision * width, 2)


def _attention_pooling(work: Work, counted: Counted, patches: int, activation: str) -> None:
    """Pool the patches of every frame into its [CLS] row."""
    vision, rows = counted.config.model.vision, counted.rows
    width, frames = vision.width, rows.view_frames
    work.keep(frames * width, frames * width, 2 * patches * width, patches * width, frames * width)
    work.linear(frames, width, width)
    work.linear(patches, width, 2 * width)
    work.attention(frames, width, vision.heads)
    work.linear(frames, width, width)
    work.layer_norm(frames, width)
    _mlp(work, frames, width, vision.inner_width, activation)
    work.add(frames, width)
    work.forward.run(2 * work.value * rows.vision * width)
    work.gather(rows.vision, rows.vision, width)


def _fusion(counted: Counted) -> PartWork:
    model, rows = counted.config.model, counted.rows
    width = model.fusion.width

    def inputs(work: Work) -> None:
        work.keep(rows.text * model.text.width, rows.vision * model.vision.width)
        for tokens, encoded in ((rows.text, model.text.width), (rows.vision, model.vision.width)):
            work.linear(tokens, encoded, width)

    part = PartWork(rest=[counted.work(inputs)])
    if not rows.pair_text:
        return part

    def types(work: Work) -> None:
        for tokens in (rows.text, rows.vision):
            work.forward.run(work.value * 2 * tokens * width)
            work.backward.run(work.value * tokens * width, 2)
        work.backward.run()

    part.rest.append(counted.work(types))
    for number in range(model.fusion.layers):
        streams: tuple[Stream, Stream] = ("text", "vision")
        for stream in streams:
            count = _fusion_layer(counted, stream, number)
            first = number == 0
            own = {"text": (rows.text, rows.pair_text), "vision": (rows.vision, rows.pair_vision)}[stream][not first]
            part.layers.append((counted.work(count), counted.value * own * width))
    return part


@dataclass(frozen=True)
class _Stream:
    """Rows of one stream of a fusion layer."""

    table: int
    """Input rows."""
    own: int
    """Those that take part."""
    queries: int
    """Those that are queries of self-attention."""
    other_table: int
    other: int
    """Rows of the other stream that become keys and values."""
    rows: int
    """Rows behind cross-attention."""
    keys: int
    """Keys and values of cross-attention."""


def _fusion_layer(counted: Counted, stream: Stream, number: int) -> Callable[[Work], None]:
    """Return what counts one layer of one stream."""
    fusion, rows = counted.config.model.fusion, counted.rows
    text = stream == "text"
    views = (rows.text, rows.vision) if text else (rows.vision, rows.text)
    pairs = (rows.pair_text, rows.pair_vision) if text else (rows.pair_vision, rows.pair_text)
    read = rows.read_text if text else rows.read_vision
    last = (rows.last_text, rows.last_text_other) if text else (rows.last_vision, rows.last_vision_other)
    at_end = number == fusion.layers - 1
    if at_end and fusion.layers == 1:
        sizes = _Stream(views[0], views[0], views[0], views[1], views[1], read, last[1])
    elif at_end:
        sizes = _Stream(pairs[0], last[0], read, pairs[1], last[1], read, last[1])
    elif number == 0:
        sizes = _Stream(views[0], views[0], views[0], views[1], views[1], pairs[0], pairs[1])
    else:
        sizes = _Stream(pairs[0], pairs[0], pairs[0], pairs[1], pairs[1], pairs[0], pairs[1])
    return lambda work: _fusion_operators(work, counted, sizes, shares_views=number == 0, at_end=at_end)


def _fusion_operators(work: Work, counted: Counted, sizes: _Stream, shares_views: bool, at_end: bool) -> None:
    fusion = counted.config.model.fusion
    width, heads, drops = fusion.width, fusion.heads, fusion.dropout > 0
    work.keep(sizes.table * width)  # read by qkv, and by the other stream's keys and values
    work.part_of(sizes.table, sizes.own, width)
    if at_end and not shares_views:
        _chosen_queries(work, sizes, width)
    else:
        work.linear(sizes.own, width, 3 * width)
        work.keep(3 * sizes.own * width)
        work.add_gradients(sizes.own, width)  # of the residual
    work.attention(sizes.queries, width, heads)
    work.linear(sizes.queries, width, width)
    work.sum_norm(sizes.queries, width, drops)
    work.keep(sizes.queries * width)  # read by the queries of cross-attention
    work.linear(sizes.queries, width, width)
    work.add_gradients(sizes.queries, width)
    work.linear(sizes.other, width, 2 * width)
    if shares_views:
        work.gather(sizes.queries, sizes.rows, width)
        work.gather(sizes.other, sizes.keys, 2 * width)
        work.gather(sizes.queries, sizes.rows, width)
        work.kept -= INDEX * sizes.rows  # one index for both
    else:
        work.part_of(sizes.other_table, sizes.other, width)
    work.keep(sizes.rows * width, 2 * sizes.keys * width)
    work.attention(sizes.rows, width, heads)
    work.linear(sizes.rows, width, width)
    work.sum_norm(sizes.rows, width, drops)
    _mlp(work, sizes.rows, width, fusion.mlp_ratio * width, "gelu")
    work.add_gradients(sizes.rows, width)
    work.sum_norm(sizes.rows, width, drops)
    work.add_gradients(sizes.table, width)  # of this stream's own use and the other's


def _chosen_queries(work: Work, sizes: _Stream, width: int) -> None:
    """Map the rows that are read to queries, and all rows to keys and values, out of one matrix."""
    work.keep(sizes.queries * width, sizes.queries * width, 2 * sizes.own * width)
    work.forward.run(3 * INDEX * sizes.queries, 2)  # which rows drop by which key
    for _ in range(2):
        work.index(sizes.own, sizes.queries, width)
    work.linear(sizes.queries, width, width)
    work.linear(sizes.own, width, 2 * width)
    weight = width * width + width
    work.backward.run(work.value * (3 + 6 + 9) * weight, 6)  # two parts of the matrix and of its bias, added
