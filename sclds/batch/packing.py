"""All views of a micro-batch as packed buffers without padding, and the index of every row that something reads.

Numpy in, a flat dictionary of tensors out: the same function serves training, held-out evaluation and the check against
published numbers. CONTRIBUTING.md ("The batch") describes the layout; docs/method.md §3 is where views and pairs come
from.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sclds.batch.ragged import Ints, before, concat, cumulative, lengths_of, padded, ranges
from sclds.config import Config, LossesConfig

Batch = dict[str, Any]

CLASS_ROW, MASK_ROW = -1, -2
"""Markers in `vision_source`: the [CLS] embedding, and the mask token of v2."""
_CLASS = -1
"""The place of [CLS] among the patches of a frame, before the first."""
ITM_DRAWS = 2**31
"""Values of the counter that chooses hard ITM negatives: a whole number, so that no compute type rounds it."""


@dataclass(frozen=True)
class SampleViews:
    """One sample with its masks drawn; all arrays are int64."""

    sample_id: str
    caption: str
    kind: str
    """`image` or `video`: clips carry a temporal embedding."""
    frames: int
    grid: int
    """Patches per side of a frame."""
    text: Ints
    """(n,) ids of t0, BOS and EOS included."""
    text_mlm: Ints
    """(n,) ids of t1; not read where `losses.mlm_view` is t2."""
    mlm_positions: Ints
    """(k,) positions of `losses.mlm_view` that MLM predicts."""
    mlm_labels: Ints
    """(k,) ids to predict there."""
    text_scl: Ints
    """(n,) ids of t2."""
    scl_positions: Ints
    """(s,) positions at which t2 differs from t0, ascending, without repeats."""
    keep: Ints
    """(K,) patches of v1, the same for every frame."""
    replaced: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """(M,) patches replaced by the mask token in v2."""
    itm_partner: int = 0
    """Row of the micro-batch whose picture ITM shows beside this text."""
    itm_label: int = 1
    """1 if the partner is the sample itself."""
    itm_draw: int = 0
    """Below `ITM_DRAWS`: chooses the partner where `losses.itm_negatives` is hard."""


def grids_of(config: Config) -> tuple[int, ...]:
    """Return the patch grids (patches per side) that a run's batches contain, without repeats."""
    patch = config.model.vision.patch_size
    return tuple(dict.fromkeys((config.data.image_size // patch, config.data.video_size // patch)))


def roles_of(losses: LossesConfig) -> tuple[str, ...]:
    """Return the fusion pairs that the objectives in use need, in the order in which they are packed.

    Pairs whose vision output nobody reads come first and pairs whose text output nobody reads come last, so that the
    last fusion layer of either stream works on one contiguous range.
    """
    completion = losses.mvsc > 0 or losses.mlsc > 0 or losses.mltc_text > 0
    wanted = {
        "mlm": losses.mlm > 0 and losses.mlm_view == "t1",
        "mvsc": completion,
        "mlsc": completion or losses.mltc_image > 0 or (losses.mlm > 0 and losses.mlm_view == "t2"),
        "itm": losses.itm > 0,
        "mltc": losses.mltc_image > 0,
    }
    return tuple(role for role, on in wanted.items() if on)


_PAIR_VIEWS = {
    "mlm": ("t1", "v0"),
    "mvsc": ("t0", "v1"),
    "mlsc": ("t2", "v0"),
    "itm": ("t0", "v0"),
    "mltc": ("t0", "v2"),
}


def view_names(losses: LossesConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the text and the vision views that are packed: the complete ones, and what the pairs in use show."""
    pairs = [_PAIR_VIEWS[role] for role in roles_of(losses)]
    texts, pictures = ({"t0"} | {t for t, _ in pairs}, {"v0"} | {v for _, v in pairs})
    return tuple(sorted(texts)), tuple(sorted(pictures))


def pack(
    views: Sequence[SampleViews],
    patches: Tensor,
    *,
    pad_id: int,
    losses: LossesConfig,
    grids: tuple[int, ...],
    group_size: int,
    order: Sequence[int] | None = None,
) -> Batch:
    """Pack a micro-batch.

    Args:
        views: B samples in the order of the global batch.
        patches: (R, 3·p·p) normalised pixels of all frames, rows by sample, frame and patch.
        pad_id: Padding id of the tokenizer; RoBERTa's positions start at `pad_id + 1`.
        losses: Objectives in use; what none of them reads is not packed.
        grids: Patch grids of the run, see `grids_of`.
        group_size: Neighbours whose replaced patches, and hard ITM pictures, are one another's negatives.
        order: Rows of `views` in the order in which their tokens lie in the buffers; by default see `order_by_size`.
            What heads read, and so what the model returns, is in the order of `views` whatever it is.

    Returns:
        The batch: index tensors (int64, cumulative lengths int32), ints and tuples.
    """
    order = order_by_size(views) if order is None else tuple(order)
    rows = np.array(order)
    roles = roles_of(losses)
    hard = "itm" in roles and losses.itm_negatives == "hard"
    text_names, vision_names = view_names(losses)
    text = _pack_text(views, rows, text_names, pad_id)
    vision = _pack_vision(views, rows, grids, vision_names)
    batch: Batch = {
        "patches": patches,
        **text.tensors,
        **vision.tensors,
        **_pack_pairs(views, rows, roles, text, vision, losses),
        **(_pack_itm_draw(views, rows, roles, vision, group_size) if hard else {}),
        "sample_ids": tuple(v.sample_id for v in views),
        "captions": tuple(v.caption for v in views),
        "kinds": tuple(v.kind for v in views),
        "roles": roles,
        "text_names": text_names,
        "vision_names": vision_names,
        "order": order,
        "most_frames": max(v.frames for v in views),
        "replaced_per_group": _replaced_per_group(views, group_size) if "mltc" in roles else (),
        "itm_label": np.array([v.itm_label for v in views]),
        "mlm_label": concat([v.mlm_labels for v in views]),
    }
    return {key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for key, value in batch.items()}


def order_by_size(views: Sequence[SampleViews]) -> tuple[int, ...]:
    """Return the rows so that samples of equal size are neighbours, which dense attention computes without a copy."""
    keys = [(v.kind, v.frames, v.grid, len(v.text)) for v in views]
    return tuple(sorted(range(len(views)), key=keys.__getitem__))


def _replaced_per_group(views: Sequence[SampleViews], group_size: int) -> tuple[int, ...]:
    rows = [v.frames * len(v.replaced) for v in views]
    return tuple(sum(rows[i : i + group_size]) for i in range(0, len(rows), group_size))


@dataclass
class _Buffer:
    """Tensors of one modality, and where each view of each sample lies in its packed buffer."""

    tensors: Batch
    start: dict[str, Ints]
    """Per view, (B,) first row."""
    length: dict[str, Ints]
    """Per view, (B,) rows."""
    frames: Ints
    """(B,) frames; 1 for texts."""

    def rows(self, view: str, samples: Ints) -> Ints:
        return ranges(self.start[view][samples], self.length[view][samples])

    def frame_cls(self, view: str, samples: Ints) -> Ints:
        return _cls_rows(self.start[view][samples], self.length[view][samples], self.frames[samples])


def _pack_text(views: Sequence[SampleViews], order: Ints, names: tuple[str, ...], pad_id: int) -> _Buffer:
    field_of = {"t0": "text", "t1": "text_mlm", "t2": "text_scl"}
    lengths = lengths_of([v.text for v in views])
    packed = np.tile(lengths[order], len(names))
    cu = cumulative(packed)
    starts = {name: np.zeros(len(views), np.int64) for name in names}
    for name, first in zip(names, cu[:-1].reshape(len(names), len(views)), strict=True):
        starts[name][order] = first
    tensors = {
        "text_ids": concat([getattr(views[i], field_of[name]) for name in names for i in order]),
        "text_positions": ranges(pad_id + 1, packed),
        "text_cu": cu,
        "text_cls": starts["t0"],
    }
    return _Buffer(tensors, starts, dict.fromkeys(starts, lengths), np.ones(len(views), np.int64))


def _pack_vision(views: Sequence[SampleViews], order: Ints, grids: tuple[int, ...], names: tuple[str, ...]) -> _Buffer:
    clip = np.array([v.kind == "video" for v in views])
    frames = np.array([v.frames for v in views])
    patches = np.array([v.grid**2 for v in views])
    first_patch = before(frames * patches)
    table = np.cumsum([0] + [grid**2 + 1 for grid in grids])
    first_position = np.array([table[grids.index(v.grid)] for v in views])
    start, length = ({name: np.zeros(len(views), np.int64) for name in names} for _ in range(2))
    buffer = _Buffer({}, start, length, frames)
    source, position, frame, frame_lengths, view_lengths = [], [], [], [], []
    row = 0
    images, clips = order[~clip[order]], order[clip[order]]
    for members, name in [(members, name) for members in (images, clips) for name in names]:
        ids, shown = _shown(views, members, name)
        # every frame of a clip shows the same patches, _CLASS among them
        member, number = np.repeat(np.arange(len(members)), frames[members]), ranges(0, frames[members])
        of_frame, per_frame = members[member], shown[member]
        ids = ids[ranges(before(shown)[member], per_frame)]
        source.append(np.repeat(first_patch[of_frame] + number * patches[of_frame], per_frame) + ids)
        source[-1][ids == _CLASS] = CLASS_ROW
        position.append(np.repeat(first_position[of_frame], per_frame) + ids - _CLASS)
        frame.append(np.repeat(np.where(clip[of_frame], number, -1), per_frame))
        frame_lengths.append(per_frame)
        view_lengths.append(shown * frames[members])
        length[name][members] = view_lengths[-1]
        start[name][members] = row + before(view_lengths[-1])
        if name == "v2":
            replaced = [views[i].replaced for i in of_frame]
            source[-1][np.repeat(before(per_frame), lengths_of(replaced)) + 1 + concat(replaced)] = MASK_ROW
        row += len(ids)
    count = len(images) * len(names)
    all_views = concat(view_lengths)
    buffer.tensors |= {
        "vision_source": concat(source),
        "vision_position": concat(position),
        "vision_frame": concat(frame),
        "frame_cu": cumulative(concat(frame_lengths)),
        "vision_cu": cumulative(all_views),
        "clip_start": int(all_views[:count].sum()),
        "clip_cu": cumulative(all_views[count:]),
        "clip_cls": concat([buffer.frame_cls(name, clips) for name in names]),
        "clip_cls_cu": cumulative(np.tile(frames[clips], len(names))),
        "vision_cls": padded(buffer.frame_cls("v0", np.arange(len(views))), frames),
        "frame_count": frames,
    }
    return buffer


def _shown(views: Sequence[SampleViews], members: Ints, name: str) -> tuple[Ints, Ints]:
    """Return the patches that a view shows of one frame of each member, `_CLASS` before them, and their counts."""
    if name == "v1":
        kept = [views[i].keep for i in members]
        return concat([ids for keep in kept for ids in (np.array([_CLASS]), keep)]), lengths_of(kept) + 1
    length = np.array([views[i].grid ** 2 + 1 for i in members], np.int64)
    return ranges(_CLASS, length), length


class _Reads:
    """The rows of one stream's last layer that heads read, pair by pair, and where each head finds its own."""

    def __init__(self, order: Ints) -> None:
        self.rows: list[Ints] = []
        self.lengths: list[Ints] = []
        self.heads: dict[str, Ints] = {}
        """Per head, in the order of the samples."""
        self._order = order
        self._count = 0

    def next_role(self, wanted: dict[str, tuple[Ints, Ints]]) -> None:
        """Note what heads read of a role's pairs: by head, rows of the pair buffer, and how many of them each has."""
        pairs = np.arange(len(self._order))
        pair = concat([np.repeat(pairs, per_pair) for _, per_pair in wanted.values()])
        by_pair = np.argsort(pair, kind="stable")
        place = np.empty_like(by_pair)
        place[by_pair] = self._count + np.arange(len(pair))
        first = 0
        for name, (rows, _) in wanted.items():
            own = slice(first, first + len(rows))
            self.heads[name] = place[own][np.argsort(self._order[pair[own]], kind="stable")]
            first = own.stop
        self.rows.append(concat([rows for rows, _ in wanted.values()])[by_pair])
        self.lengths.append(np.bincount(pair, minlength=len(pairs)))
        self._count += len(pair)


def _pack_pairs(
    views: Sequence[SampleViews],
    order: Ints,
    roles: tuple[str, ...],
    text: _Buffer,
    vision: _Buffer,
    losses: LossesConfig,
) -> Batch:
    """Pack the fusion pairs: their rows in the view buffers, and what heads read of the last layer's output."""
    partners = np.array([v.itm_partner for v in views])
    members = [views[i] for i in order]
    text_rows, vision_rows, text_lengths, vision_lengths = [], [], [], []
    text_reads, vision_reads = _Reads(order), _Reads(order)
    text_row = vision_row = 0
    for role in roles:
        text_view, vision_view = _PAIR_VIEWS[role]
        shown = partners[order] if role == "itm" else order
        text_rows.append(text.rows(text_view, order))
        vision_rows.append(vision.rows(vision_view, shown))
        text_lengths.append(text.length[text_view][order])
        vision_lengths.append(vision.length[vision_view][shown])
        text_start = text_row + before(text_lengths[-1])
        vision_start = vision_row + before(vision_lengths[-1])
        frame_cls = _cls_rows(vision_start, vision_lengths[-1], vision.frames[shown])
        text_reads.next_role(_text_reads(role, members, text_start, losses))
        vision_reads.next_role(_vision_reads(role, members, frame_cls, vision.frames[shown], losses))
        text_row += len(text_rows[-1])
        vision_row += len(vision_rows[-1])
    text_pairs = len(views) * len([r for r in roles if r != "mltc"])
    first_vision_pair = len(views) * ("mlm" in roles)
    batch: Batch = {
        "pair_text": concat(text_rows),
        "pair_vision": concat(vision_rows),
        "pair_text_cu": cumulative(concat(text_lengths)),
        "pair_vision_cu": cumulative(concat(vision_lengths)),
        "text_pairs": text_pairs,
        "first_vision_pair": first_vision_pair,
        "read_text": concat(text_reads.rows),
        "read_text_cu": cumulative(concat(text_reads.lengths)[:text_pairs]),
        "read_vision": concat(vision_reads.rows),
        "read_vision_cu": cumulative(concat(vision_reads.lengths)[first_vision_pair:]),
    }
    for name, rows in (text_reads.heads | vision_reads.heads).items():
        batch[f"head_{name}"] = padded(rows, vision.frames[partners]) if name == "itm_vision" else rows
    return batch


def _pack_itm_draw(
    views: Sequence[SampleViews], order: Ints, roles: tuple[str, ...], vision: _Buffer, group_size: int
) -> Batch:
    """Pack what the device needs to draw hard ITM negatives: candidates, counter, and the itm pairs' vision rows.

    Candidates are the other members of the group as large as the packed partner, so that every length stays.
    """
    count, length = len(views), vision.length["v0"]
    partner = np.array([v.itm_partner for v in views])
    members = np.arange(count)[:, None] // group_size * group_size + np.arange(group_size)
    present = members < count
    members = np.minimum(members, count - 1)
    sizes = np.array([(v.kind == "video", v.frames, n) for v, n in zip(views, length, strict=True)])
    as_large = (sizes[members] == sizes[partner][:, None]).all(2)
    wrong = np.array([v.itm_label == 0 for v in views])[:, None]
    shown = length[partner[order]]
    earlier = [vision.length[_PAIR_VIEWS[role][1]].sum() for role in roles[: roles.index("itm")]]
    return {
        "itm_members": members,
        "itm_allowed": present & as_large & wrong & (members != np.arange(count)[:, None]),
        "itm_draw": np.array([v.itm_draw for v in views]),
        "itm_partner": partner,
        "itm_vision_start": vision.start["v0"],
        "itm_row_sample": np.repeat(order, shown),
        "itm_row_offset": ranges(0, shown),
        "itm_first_row": int(sum(earlier)),
    }


def _text_reads(
    role: str, members: list[SampleViews], start: Ints, losses: LossesConfig
) -> dict[str, tuple[Ints, Ints]]:
    """Return what is read of the texts of a role's pairs, which start at rows `start`; see `_Reads.next_role`."""

    def tokens(positions: list[Ints]) -> tuple[Ints, Ints]:
        per_pair = lengths_of(positions)
        return np.repeat(start, per_pair) + concat(positions), per_pair

    wanted = {}
    if role in ("mvsc", "mlsc", "itm"):
        wanted[f"{role}_text"] = start, np.ones_like(start)
    if role == "mlm" or (role == "mlsc" and losses.mlm > 0 and losses.mlm_view == "t2"):
        wanted["mlm"] = tokens([v.mlm_positions for v in members])
    if role in ("mvsc", "mlsc") and losses.mltc_text > 0:
        wanted[f"{role}_text_tokens"] = tokens([v.scl_positions for v in members])
    return wanted


def _vision_reads(
    role: str, members: list[SampleViews], frame_cls: Ints, frames: Ints, losses: LossesConfig
) -> dict[str, tuple[Ints, Ints]]:
    """Return what is read of the pictures of a role's pairs, whose frame [CLS] tokens lie at `frame_cls`."""
    wanted = {f"{role}_vision": (frame_cls, frames)} if role in ("mvsc", "mlsc", "itm") else {}
    if role in ("mlsc", "mltc") and losses.mltc_image > 0:
        replaced = lengths_of([v.replaced for v in members])
        of_frame = concat([np.tile(v.replaced, v.frames) for v in members])
        rows = np.repeat(frame_cls, np.repeat(replaced, frames)) + 1 + of_frame
        wanted[f"{role}_vision_tokens"] = rows, replaced * frames
    return wanted


def _cls_rows(start: Ints, length: Ints, frames: Ints) -> Ints:
    """Return the rows of the frame [CLS] tokens of views that start at `start`."""
    return np.repeat(start, frames) + ranges(0, frames) * np.repeat(length // frames, frames)
