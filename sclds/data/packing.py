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

from sclds.config import Config, LossesConfig

Batch = dict[str, Any]
Ints = np.ndarray

CLASS_ROW, MASK_ROW = -1, -2
"""Markers in `vision_source`: the [CLS] embedding, and the mask token of v2."""
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
    roles = roles_of(losses)
    hard = "itm" in roles and losses.itm_negatives == "hard"
    text_names, vision_names = view_names(losses)
    text = _pack_text(views, order, text_names, pad_id)
    vision = _pack_vision(views, order, grids, vision_names)
    batch: Batch = {
        "patches": patches,
        **text.tensors,
        **vision.tensors,
        **_pack_pairs(views, order, roles, text, vision, losses),
        **(_pack_itm_draw(views, order, roles, vision, group_size) if hard else {}),
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
        "mlm_label": _concat([v.mlm_labels for v in views]),
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

    def rows(self, view: str, sample: int) -> Ints:
        first = self.start[view][sample]
        return np.arange(first, first + self.length[view][sample])


def _pack_text(views: Sequence[SampleViews], order: Sequence[int], names: tuple[str, ...], pad_id: int) -> _Buffer:
    field_of = {"t0": "text", "t1": "text_mlm", "t2": "text_scl"}
    texts = [getattr(views[i], field_of[name]) for name in names for i in order]
    cu = _cumulative([len(t) for t in texts])
    count = len(views)
    starts = {name: np.zeros(count, np.int64) for name in names}
    for k, name in enumerate(starts):
        starts[name][list(order)] = cu[k * count : (k + 1) * count]
    lengths = np.array([len(v.text) for v in views])
    tensors = {
        "text_ids": _concat(texts),
        "text_positions": _concat([np.arange(len(t)) for t in texts]) + pad_id + 1,
        "text_cu": cu,
        "text_cls": starts["t0"],
    }
    return _Buffer(tensors, starts, dict.fromkeys(starts, lengths), np.ones(count, np.int64))


def _pack_vision(
    views: Sequence[SampleViews], order: Sequence[int], grids: tuple[int, ...], names: tuple[str, ...]
) -> _Buffer:
    count = len(views)
    start = {name: np.zeros(count, np.int64) for name in names}
    length = {name: np.zeros(count, np.int64) for name in names}
    first_patch = _cumulative([v.frames * v.grid**2 for v in views]).astype(np.int64)
    table = np.cumsum([0] + [grid**2 + 1 for grid in grids])
    source, position, frame, frame_lengths, view_lengths = [], [], [], [], []
    row = clip_start = 0
    for kind, name, i in [(kind, name, i) for kind in ("image", "video") for name in names for i in order]:
        sample = views[i]
        if (sample.kind == "video") != (kind == "video"):
            continue
        patch_ids = sample.keep if name == "v1" else np.arange(sample.grid**2)
        per_frame = len(patch_ids) + 1
        offsets = first_patch[i] + np.arange(sample.frames)[:, None] * sample.grid**2
        tokens = np.full((sample.frames, per_frame), CLASS_ROW, np.int64)
        tokens[:, 1:] = offsets + patch_ids
        if name == "v2":
            tokens[:, 1 + sample.replaced] = MASK_ROW
        source.append(tokens.ravel())
        places = table[grids.index(sample.grid)] + np.concatenate(([0], patch_ids + 1))
        position.append(np.tile(places, sample.frames))
        numbers = np.arange(sample.frames) if kind == "video" else np.full(sample.frames, -1)
        frame.append(np.repeat(numbers, per_frame))
        frame_lengths += [per_frame] * sample.frames
        start[name][i], length[name][i] = row, tokens.size
        view_lengths.append(tokens.size)
        row += tokens.size
        clip_start = row if kind == "image" else clip_start
    frames = np.array([v.frames for v in views])
    clips = [(n, i) for n in names for i in order if views[i].kind == "video"]
    frame_cls = {name: [_cls_rows(start[name][i], length[name][i], frames[i]) for i in range(count)] for name in names}
    tensors = {
        "vision_source": _concat(source),
        "vision_position": _concat(position),
        "vision_frame": _concat(frame),
        "frame_cu": _cumulative(frame_lengths),
        "vision_cu": _cumulative(view_lengths),
        "clip_start": clip_start,
        "clip_cu": _cumulative([length[n][i] for n, i in clips]),
        "clip_cls": _concat([frame_cls[n][i] for n, i in clips]),
        "clip_cls_cu": _cumulative([frames[i] for _, i in clips]),
        "vision_cls": _padded([frame_cls["v0"][i] for i in range(count)]),
        "frame_count": frames,
    }
    return _Buffer(tensors, start, length, frames)


class _Reads:
    """The rows of one stream's last layer that heads read, pair by pair, and where each head finds its own."""

    def __init__(self) -> None:
        self.rows: list[Ints] = []
        self.lengths: list[int] = []
        self.heads: dict[str, dict[int, Ints]] = {}
        """Per head and sample."""
        self._count = 0

    def next_pair(self, sample: int, wanted: dict[str, Ints]) -> None:
        """Note what heads read of the next pair, which is one of `sample`: head name and rows of the pair buffer."""
        before = self._count
        for name, rows in wanted.items():
            self.heads.setdefault(name, {})[sample] = self._count + np.arange(len(rows))
            self.rows.append(rows)
            self._count += len(rows)
        self.lengths.append(self._count - before)


def _pack_pairs(
    views: Sequence[SampleViews],
    order: Sequence[int],
    roles: tuple[str, ...],
    text: _Buffer,
    vision: _Buffer,
    losses: LossesConfig,
) -> Batch:
    """Pack the fusion pairs: their rows in the view buffers, and what heads read of the last layer's output."""
    text_rows: list[Ints] = []
    vision_rows: list[Ints] = []
    text_reads, vision_reads = _Reads(), _Reads()
    text_row = vision_row = 0
    for role in roles:
        text_view, vision_view = _PAIR_VIEWS[role]
        for i in order:
            sample = views[i]
            partner = sample.itm_partner if role == "itm" else i
            text_rows.append(text.rows(text_view, i))
            vision_rows.append(vision.rows(vision_view, partner))
            frame_cls = vision_row + _cls_rows(0, len(vision_rows[-1]), vision.frames[partner])
            text_reads.next_pair(i, _text_reads(role, sample, text_row, losses))
            vision_reads.next_pair(i, _vision_reads(role, sample, frame_cls, losses))
            text_row += len(text_rows[-1])
            vision_row += len(vision_rows[-1])
    text_pairs = len(views) * len([r for r in roles if r != "mltc"])
    first_vision_pair = len(views) * ("mlm" in roles)
    batch: Batch = {
        "pair_text": _concat(text_rows),
        "pair_vision": _concat(vision_rows),
        "pair_text_cu": _cumulative([len(r) for r in text_rows]),
        "pair_vision_cu": _cumulative([len(r) for r in vision_rows]),
        "text_pairs": text_pairs,
        "first_vision_pair": first_vision_pair,
        "read_text": _concat(text_reads.rows),
        "read_text_cu": _cumulative(text_reads.lengths[:text_pairs]),
        "read_vision": _concat(vision_reads.rows),
        "read_vision_cu": _cumulative(vision_reads.lengths[first_vision_pair:]),
    }
    for name, of_sample in (text_reads.heads | vision_reads.heads).items():
        rows = [of_sample[i] for i in range(len(views))]
        batch[f"head_{name}"] = _padded(rows) if name == "itm_vision" else _concat(rows)
    return batch


def _pack_itm_draw(
    views: Sequence[SampleViews], order: Sequence[int], roles: tuple[str, ...], vision: _Buffer, group_size: int
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
    shown = length[partner[list(order)]]
    before = [vision.length[_PAIR_VIEWS[role][1]].sum() for role in roles[: roles.index("itm")]]
    return {
        "itm_members": members,
        "itm_allowed": present & as_large & wrong & (members != np.arange(count)[:, None]),
        "itm_draw": np.array([v.itm_draw for v in views]),
        "itm_partner": partner,
        "itm_vision_start": vision.start["v0"],
        "itm_row_sample": np.repeat(np.array(order), shown),
        "itm_row_offset": _concat([np.arange(n) for n in shown]),
        "itm_first_row": int(sum(before)),
    }


def _text_reads(role: str, sample: SampleViews, start: int, losses: LossesConfig) -> dict[str, Ints]:
    """Return what is read of a pair's text, which starts at row `start`."""
    if role == "mlm":
        return {"mlm": start + sample.mlm_positions}
    if role == "mltc":
        return {}
    wanted = {f"{role}_text": np.array([start])}
    if role == "mlsc" and losses.mlm > 0 and losses.mlm_view == "t2":
        wanted["mlm"] = start + sample.mlm_positions
    if role in ("mvsc", "mlsc") and losses.mltc_text > 0:
        wanted[f"{role}_text_tokens"] = start + sample.scl_positions
    return wanted


def _vision_reads(role: str, sample: SampleViews, frame_cls: Ints, losses: LossesConfig) -> dict[str, Ints]:
    """Return what is read of a pair's picture or clip, whose frame [CLS] tokens lie at `frame_cls`."""
    wanted = {f"{role}_vision": frame_cls} if role in ("mvsc", "mlsc", "itm") else {}
    if role in ("mlsc", "mltc") and losses.mltc_image > 0:
        wanted[f"{role}_vision_tokens"] = (frame_cls[:, None] + 1 + sample.replaced).ravel()
    return wanted


def _cls_rows(start: int, length: int, frames: int) -> Ints:
    """Return the rows of the frame [CLS] tokens of a view that starts at `start`."""
    return start + np.arange(frames) * (length // frames)


def _padded(rows: list[Ints]) -> Ints:
    """Return (B, F_max) rows, -1 where a sample has fewer frames."""
    widest = max((len(r) for r in rows), default=0)
    table = np.full((len(rows), widest), -1, np.int64)
    for i, r in enumerate(rows):
        table[i, : len(r)] = r
    return table


def _concat(arrays: Sequence[Ints]) -> Ints:
    return np.concatenate([np.zeros(0, np.int64), *arrays]).astype(np.int64)


def _cumulative(lengths: Sequence[int] | Ints) -> Ints:
    """Return cumulative lengths with a leading 0, int32 as variable-length attention wants them."""
    return np.concatenate(([0], np.cumsum(np.asarray(lengths, np.int64)))).astype(np.int32)
