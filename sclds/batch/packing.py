"""A micro-batch: all views in packed buffers without padding, the pairs of them, and the rows that something reads.

Numpy in, a typed batch out: the same function serves training, held-out evaluation and the check against published
numbers. `sclds.batch.types` describes the layout; docs/method.md §3 is where views and pairs come from.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from sclds.batch.attention_plan import AttentionPlan, FusionAttention, Planner, StreamAttention
from sclds.batch.dropout_keys import pair_keys, sample_keys, view_keys
from sclds.batch.duplicates import caption_identities, image_identities
from sclds.batch.frames import frames_by_number
from sclds.batch.pairs import PairBuffer, hard_candidates, itm_places, itm_rows, pack_pairs
from sclds.batch.ragged import Ints, concat
from sclds.batch.types import (
    Batch,
    Counts,
    DropoutKeys,
    FramePooling,
    HardNegatives,
    Identities,
    Labels,
    Lengths,
    Pairs,
    Reads,
    Samples,
    TextViews,
    VideoAttention,
    VisionViews,
)
from sclds.batch.views import (
    Layout,
    SampleViews,
    TextBuffer,
    VisionBuffer,
    grids_of,
    order_by_size,
    pack_text,
    pack_vision,
)
from sclds.config import Config, LossesConfig
from sclds.machine.attention import AttentionBackend, AttentionBackends
from sclds.machine.implementations import choose
from sclds.objectives import Objective, objectives_in_use, pairs_in_use, view_names
from sclds.objectives.pairs import pairs_read


@dataclass(frozen=True)
class Recipe:
    """What packing depends on beside the samples: the same for all batches of a run."""

    pad_id: int
    """Padding id of the tokenizer; RoBERTa's positions start at `pad_id + 1`."""
    losses: LossesConfig
    """Objectives in use; what none of them reads is not packed."""
    grids: tuple[int, ...]
    """Patch grids of the run, see `grids_of`."""
    group_size: int
    """Neighbors whose replaced patches, and hard ITM images, are one another's negatives."""
    fusion_layers: int
    """Layers of the fusion encoder, whose attention is planned."""
    attention: AttentionBackends = field(default_factory=AttentionBackends)
    """Who computes attention."""
    max_frames: int = 8
    """The most frames of a sample, see `VisionConfig.max_frames`."""
    pools_frames: bool = False
    """Whether the vision tower has no [CLS] token, see `VisionConfig.pools_frames`."""


def recipe_of(config: Config, pad_id: int) -> Recipe:
    """Return the recipe of a run on this machine.

    Args:
        config: The run.
        pad_id: Padding id of its tokenizer.
    """
    model, attention = config.model, choose(config).attention
    return Recipe(
        pad_id,
        config.losses,
        grids_of(config),
        config.batch.group_size,
        model.fusion.layers,
        attention,
        model.vision.max_frames,
        model.vision.pools_frames,
    )


def pack(views: Sequence[SampleViews], patches: Tensor, recipe: Recipe, order: Sequence[int] | None = None) -> Batch:
    """Pack a micro-batch.

    Args:
        views: B samples in the order of the global batch.
        patches: (R, 3·p·p) normalized pixels of all frames, rows by sample, frame and patch.
        recipe: Of the run.
        order: Rows of `views` in the order in which their tokens lie in the buffers; by default see `order_by_size`.
            What is read, and so what the model returns, is in the order of `views` whatever it is.
    """
    order = order_by_size(views) if order is None else tuple(order)
    rows, objectives = np.array(order), objectives_in_use(recipe.losses)
    text_names, vision_names = view_names(objectives)
    text = pack_text(views, rows, text_names, recipe.pad_id)
    vision = pack_vision(views, rows, vision_names, recipe.grids)
    reads = [read for objective in objectives for read in objective.reads]
    pairs = pack_pairs(views, rows, pairs_in_use(objectives), reads, text.layout, vision.layout)
    lengths = all_lengths(
        text,
        vision,
        pair_text_cu_seqlens=pairs.text_cu_seqlens,
        pair_vision_cu_seqlens=pairs.vision_cu_seqlens,
        read_text_cu_seqlens=pairs.text_reads.cu_seqlens(pairs_read(objectives, "text")),
        read_vision_cu_seqlens=pairs.vision_reads.cu_seqlens(pairs_read(objectives, "vision")),
    )
    plan = Planner()
    return Batch(
        text=text_views(text, text_names, recipe, lengths, plan),
        vision=vision_views(vision, vision_names, patches, recipe, lengths, plan),
        pairs=_pairs(pairs, objectives, recipe, lengths, len(views), plan),
        reads=_reads(pairs, views, vision.layout),
        labels=Labels(
            mlm=torch.from_numpy(concat([v.mlm_labels for v in views])),
            itm=torch.tensor([v.itm_label for v in views]),
        ),
        negatives=_hard_negatives(views, rows, vision.layout, pairs, recipe, objectives),
        identities=identities_of(views, recipe.losses),
        dropout_keys=_dropout_keys(views, rows, text, vision, pairs),
        lengths=lengths,
        samples=samples_of(views, order),
        counts=_counts(views, objectives, recipe),
        objectives=objectives,
    )


def samples_of(views: Sequence[SampleViews], order: tuple[int, ...]) -> Samples:
    """Return who the samples are, and the order in which they lie in the buffers."""
    return Samples(
        ids=tuple(v.sample_id for v in views),
        captions=tuple(v.caption for v in views),
        kinds=tuple(v.kind for v in views),
        frames=tuple(v.frames for v in views),
        order=order,
    )


def all_lengths(text: TextBuffer, vision: VisionBuffer, **of_pairs: Ints) -> Lengths:
    """Return the cumulative lengths of a batch; those of pairs and of what is read of them by their names there."""
    of_views = {
        "text_cu_seqlens": text.cu_seqlens,
        "frame_cu_seqlens": vision.frame_cu_seqlens,
        "vision_cu_seqlens": vision.cu_seqlens,
        "video_cu_seqlens": vision.video_cu_seqlens,
        "video_cls_cu_seqlens": vision.video_cls_cu_seqlens,
    }
    return Lengths(**{name: torch.from_numpy(array) for name, array in (of_views | of_pairs).items()})


def text_views(text: TextBuffer, names: tuple[str, ...], recipe: Recipe, lengths: Lengths, plan: Planner) -> TextViews:
    """Return packed text views as tensors, with who attends to whom."""
    cu_seqlens = lengths.text_cu_seqlens
    ids, positions, cls = (torch.from_numpy(array) for array in (text.ids, text.positions, text.cls))
    return TextViews(ids, positions, cls, plan(cu_seqlens, cu_seqlens, recipe.attention.text), names)


def vision_views(
    vision: VisionBuffer, names: tuple[str, ...], patches: Tensor, recipe: Recipe, lengths: Lengths, plan: Planner
) -> VisionViews:
    """Return packed vision views as tensors, with who attends to whom."""
    backend = recipe.attention.vision
    videos = None
    if len(lengths.video_cu_seqlens) > 1:
        over_videos = plan(lengths.video_cls_cu_seqlens, lengths.video_cu_seqlens, backend)
        videos = VideoAttention(vision.video_start, torch.from_numpy(vision.video_cls), over_videos)
    return VisionViews(
        patches,
        source=torch.from_numpy(vision.source),
        position=torch.from_numpy(vision.position),
        frame=torch.from_numpy(vision.frame),
        cls=torch.from_numpy(vision.cls),
        frames=frames_by_number(vision.layout.frames, recipe.max_frames),
        attention=plan(lengths.frame_cu_seqlens, lengths.frame_cu_seqlens, backend),
        videos=videos,
        names=names,
        grids=recipe.grids,
        pooling=_frame_pooling(lengths, backend, plan) if recipe.pools_frames else None,
    )


def _frame_pooling(lengths: Lengths, backend: AttentionBackend, plan: Planner) -> FramePooling:
    """Plan attention without [CLS] rows, the first of every frame, and the pooling of frames over patches."""
    cu_seqlens, frames = lengths.frame_cu_seqlens, lengths.video_cls_cu_seqlens.diff()
    cls_rows = cu_seqlens[:-1].long()
    is_cls = torch.zeros(int(cu_seqlens[-1]), dtype=torch.bool)
    is_cls[cls_rows] = True
    patches = cu_seqlens.diff() - 1
    images = len(patches) - int(frames.sum())
    queries = torch.cat((torch.ones_like(patches[:images]), frames))
    keys = torch.cat((patches[:images], lengths.video_cu_seqlens.diff() - frames))
    merged = torch.where(is_cls, is_cls.cumsum(0) - 1, len(cls_rows) + (~is_cls).cumsum(0) - 1)
    return FramePooling(
        patch_rows=(~is_cls).nonzero().squeeze(1),
        cls_rows=cls_rows,
        merged=merged,
        attention=plan(_cumulative(patches), _cumulative(patches), backend),
        pooling=plan(_cumulative(queries), _cumulative(keys), backend),
    )


def _cumulative(lengths: Tensor) -> Tensor:
    """Return (S + 1,) int32 cumulative lengths."""
    return torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))


def _pairs(
    pairs: PairBuffer,
    objectives: tuple[Objective, ...],
    recipe: Recipe,
    lengths: Lengths,
    samples: int,
    plan: Planner,
) -> Pairs:
    names = tuple(pair.name for pair in pairs_in_use(objectives))
    text = FusionStream(
        lengths.text_cu_seqlens,
        lengths.pair_text_cu_seqlens,
        lengths.read_text_cu_seqlens,
        _range(names, pairs_read(objectives, "text"), samples),
    )
    vision = FusionStream(
        lengths.vision_cu_seqlens,
        lengths.pair_vision_cu_seqlens,
        lengths.read_vision_cu_seqlens,
        _range(names, pairs_read(objectives, "vision"), samples),
    )
    layers = FusionPlanner(recipe.fusion_layers, plan, recipe.attention)
    attention = plan_fusion(text, vision, layers)
    return Pairs(torch.from_numpy(pairs.text_rows), torch.from_numpy(pairs.vision_rows), attention, names)


def _range(names: tuple[str, ...], read: tuple[str, ...], samples: int) -> slice:
    """Return the pairs, of all samples, whose output is read: neighbors, as `pairs_in_use` sorts them."""
    if not read:
        return slice(0, 0)
    first, last = names.index(read[0]), names.index(read[-1])
    assert names[first : last + 1] == read, "pairs that are read must be neighbors"
    return slice(first * samples, (last + 1) * samples)


@dataclass(frozen=True)
class FusionStream:
    """Cumulative lengths of one stream."""

    views: Tensor
    pairs: Tensor
    read: Tensor
    """Of the pairs whose output is read."""
    active: slice
    """These pairs."""

    def of_active(self, pairs: slice) -> tuple[slice, Tensor]:
        """Return the rows of a range of pairs, and its cumulative lengths counted from its start."""
        start, end = int(self.pairs[pairs.start]), int(self.pairs[pairs.stop])
        return slice(start, end), self.pairs[pairs.start : pairs.stop + 1] - self.pairs[pairs.start]


@dataclass(frozen=True)
class FusionPlanner:
    """The layers of the fusion encoder, and who plans and computes their attention."""

    count: int
    planner: Planner
    backends: AttentionBackends

    def within(self, q: Tensor, k: Tensor) -> AttentionPlan:
        """Plan self-attention."""
        return self.planner(q, k, self.backends.fusion_self)

    def across(self, q: Tensor, k: Tensor) -> AttentionPlan:
        """Plan cross-attention."""
        return self.planner(q, k, self.backends.fusion_cross)


def plan_fusion(text: FusionStream, vision: FusionStream, layers: FusionPlanner) -> FusionAttention:
    """Plan every layer: the first over views, the middle over pairs, the last over what is read."""
    streams = ((text, vision), (vision, text))
    last_text, last_vision = (_last_layer(own, other, layers) for own, other in streams)
    if layers.count == 1:
        return FusionAttention((last_text, last_vision))
    crosses = [layers.across(own.pairs, other.pairs) for own, other in streams]
    first_text, first_vision = (
        StreamAttention(layers.within(own.views, own.views), cross)
        for (own, _), cross in zip(streams, crosses, strict=True)
    )
    if layers.count == 2:
        return FusionAttention((last_text, last_vision), (first_text, first_vision))
    middle_text, middle_vision = (
        StreamAttention(layers.within(own.pairs, own.pairs), cross)
        for (own, _), cross in zip(streams, crosses, strict=True)
    )
    return FusionAttention((last_text, last_vision), (first_text, first_vision), (middle_text, middle_vision))


def _last_layer(own: FusionStream, other: FusionStream, layers: FusionPlanner) -> StreamAttention:
    own_rows, own_cu_seqlens = own.of_active(own.active)
    other_rows, other_cu_seqlens = other.of_active(own.active)
    cross = layers.across(own.read, other_cu_seqlens)
    if layers.count == 1:
        return StreamAttention(layers.within(own.views, own.views), cross, other=other_rows)
    return StreamAttention(layers.within(own.read, own_cu_seqlens), cross, own=own_rows, other=other_rows)


def _reads(pairs: PairBuffer, views: Sequence[SampleViews], vision: Layout) -> Reads:
    places = pairs.text_reads.places | {
        read: itm_places(found, views, vision) if read.pair == "itm" else found
        for read, found in pairs.vision_reads.places.items()
    }
    return Reads(
        torch.from_numpy(pairs.text_reads.rows),
        torch.from_numpy(pairs.vision_reads.rows),
        {read: torch.from_numpy(found) for read, found in places.items()},
    )


def _hard_negatives(
    views: Sequence[SampleViews],
    order: Ints,
    vision: Layout,
    pairs: PairBuffer,
    recipe: Recipe,
    objectives: tuple[Objective, ...],
) -> HardNegatives | None:
    if recipe.losses.itm_negatives != "hard" or "itm" not in {objective.name for objective in objectives}:
        return None
    published = recipe.losses.duplicates == "negatives"
    members, allowed, partner = hard_candidates(views, vision, recipe.group_size, duplicates=published)
    row_sample, row_offset = itm_rows(views, order, vision)
    return HardNegatives(
        members=torch.from_numpy(members),
        allowed=torch.from_numpy(allowed),
        draw=torch.tensor([v.itm_draw for v in views]),
        partner=torch.from_numpy(partner),
        vision_start=torch.from_numpy(vision.start["v0"]),
        row_sample=torch.from_numpy(row_sample),
        row_offset=torch.from_numpy(row_offset),
        first_row=pairs.first_vision_row["itm"],
    )


def _dropout_keys(
    views: Sequence[SampleViews], order: Ints, text: TextBuffer, vision: VisionBuffer, pairs: PairBuffer
) -> DropoutKeys:
    keys = sample_keys(views)
    of_views = [view_keys(keys, buffer.layout, int(buffer.cu_seqlens[-1])) for buffer in (text, vision)]
    of_pairs = [pair_keys(keys[order], pairs.lengths[stream], stream) for stream in ("text", "vision")]
    return DropoutKeys(*map(torch.from_numpy, of_views + of_pairs))


def identities_of(views: Sequence[SampleViews], losses: LossesConfig) -> Identities | None:
    """Return by what samples are known to be duplicates; None where these are negatives."""
    if losses.duplicates == "negatives":
        return None
    return Identities(torch.from_numpy(caption_identities(views)), torch.from_numpy(image_identities(views)))


def _counts(views: Sequence[SampleViews], objectives: tuple[Objective, ...], recipe: Recipe) -> Counts:
    rows = {read.rows for objective in objectives for read in objective.reads}
    replaced = [v.frames * len(v.replaced) for v in views]
    groups = tuple(sum(replaced[i : i + recipe.group_size]) for i in range(0, len(replaced), recipe.group_size))
    return Counts(
        samples=len(views),
        words=sum(len(v.mlm_labels) for v in views),
        completed=sum(len(v.scl_positions) for v in views) if "completed" in rows else 0,
        replaced_per_group=groups if "replaced" in rows else (),
        samples_with_frame=tuple(sum(v.frames > number for v in views) for number in range(recipe.max_frames)),
        itm_alone=sum(v.itm_alone for v in views),
    )
