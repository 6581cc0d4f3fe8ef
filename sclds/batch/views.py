"""One sample's views as they are drawn, and the packed buffer of either modality made of many samples' views."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from scl_kernels import CLASS_ROW, MASK_ROW
from sclds.batch.ragged import Ints, concat, cumulative, exclusive_sum, lengths_of, padded, ranges
from sclds.config import Config

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
    """`image` or `video`: videos carry a temporal embedding."""
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
    dropout_key: int
    """Below 2^63: what dropout draws for this sample follows from it; read in training alone."""
    replaced: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """(M,) patches replaced by the mask token in v2."""
    itm_partner: int = 0
    """Row of the micro-batch whose image or video ITM shows beside this text."""
    itm_label: int = 1
    """1 if the partner is the sample itself."""
    itm_draw: int = 0
    """Below `ITM_DRAWS`: chooses the partner where `losses.itm_negatives` is hard."""
    itm_alone: bool = False
    """Whether no other member of its group can be a wrong partner, so that ITM shows it matched."""
    image_id: int | None = None
    """Fingerprint of the stored image or video; None where nobody asks for it, and the sample id stands for it."""


def grids_of(config: Config) -> tuple[int, ...]:
    """Return the patch grids (patches per side) that a run's batches contain, without repeats."""
    patch = config.model.vision.patch_size
    return tuple(dict.fromkeys((config.data.image_size // patch, config.data.video_size // patch)))


def order_by_size(views: Sequence[SampleViews]) -> tuple[int, ...]:
    """Return the rows so that samples of equal size are neighbors, which dense attention computes without a copy."""
    keys = [(v.kind, v.frames, v.grid, len(v.text)) for v in views]
    return tuple(sorted(range(len(views)), key=keys.__getitem__))


@dataclass(frozen=True)
class Layout:
    """Where each view of each of B samples lies in the packed buffer of its modality."""

    start: dict[str, Ints]
    """Per view, (B,) first row."""
    length: dict[str, Ints]
    """Per view, (B,) rows."""
    frames: Ints
    """(B,) frames; 1 for texts."""

    def rows(self, view: str, samples: Ints) -> Ints:
        """Return the rows of a view of samples, one sample after the other."""
        return ranges(self.start[view][samples], self.length[view][samples])

    def frame_cls(self, view: str, samples: Ints) -> Ints:
        """Return the rows of the frame [CLS] tokens of a view of samples."""
        return frame_cls_rows(self.start[view][samples], self.length[view][samples], self.frames[samples])


def frame_cls_rows(start: Ints, length: Ints, frames: Ints) -> Ints:
    """Return the rows of the frame [CLS] tokens of views that start at `start`."""
    return np.repeat(start, frames) + ranges(0, frames) * np.repeat(length // frames, frames)


@dataclass(frozen=True)
class TextBuffer:
    """The packed text views as numpy arrays, see `sclds.batch.types.TextViews`."""

    layout: Layout
    ids: Ints
    positions: Ints
    cls: Ints
    cu_seqlens: Ints


def pack_text(views: Sequence[SampleViews], order: Ints, names: tuple[str, ...], pad_id: int) -> TextBuffer:
    """Pack the text views `names` of samples, view by view, each in `order`."""
    field_of = {"t0": "text", "t1": "text_mlm", "t2": "text_scl"}
    lengths = lengths_of([v.text for v in views])
    packed = np.tile(lengths[order], len(names))
    cu_seqlens = cumulative(packed)
    starts = {name: np.zeros(len(views), np.int64) for name in names}
    for name, first in zip(names, cu_seqlens[:-1].reshape(len(names), len(views)), strict=True):
        starts[name][order] = first
    return TextBuffer(
        Layout(starts, dict.fromkeys(starts, lengths), np.ones(len(views), np.int64)),
        ids=concat([getattr(views[i], field_of[name]) for name in names for i in order]),
        positions=ranges(pad_id + 1, packed),
        cls=starts["t0"],
        cu_seqlens=cu_seqlens,
    )


@dataclass(frozen=True)
class VisionBuffer:
    """The packed vision views as numpy arrays, see `sclds.batch.types.VisionViews`."""

    layout: Layout
    source: Ints
    position: Ints
    frame: Ints
    cls: Ints
    frame_cu_seqlens: Ints
    cu_seqlens: Ints
    video_start: int
    video_cu_seqlens: Ints
    video_cls: Ints
    video_cls_cu_seqlens: Ints


def pack_vision(
    views: Sequence[SampleViews], order: Ints, names: tuple[str, ...], grids: tuple[int, ...]
) -> VisionBuffer:
    """Pack the vision views `names`: of images view by view, then of videos view by view, each in `order`."""
    video = np.array([v.kind == "video" for v in views])
    frames = np.array([v.frames for v in views])
    patches = np.array([v.grid**2 for v in views])
    first_patch = exclusive_sum(frames * patches)
    table = np.cumsum([0] + [grid**2 + 1 for grid in grids])
    first_position = np.array([table[grids.index(v.grid)] for v in views])
    start, length = ({name: np.zeros(len(views), np.int64) for name in names} for _ in range(2))
    layout = Layout(start, length, frames)
    source, position, frame, frame_lengths, view_lengths = [], [], [], [], []
    row = 0
    images, videos = order[~video[order]], order[video[order]]
    for members, name in [(members, name) for members in (images, videos) for name in names]:
        ids, shown = _shown(views, members, name)
        # every frame of a video shows the same patches, _CLASS among them
        member, number = np.repeat(np.arange(len(members)), frames[members]), ranges(0, frames[members])
        of_frame, per_frame = members[member], shown[member]
        ids = ids[ranges(exclusive_sum(shown)[member], per_frame)]
        source.append(np.repeat(first_patch[of_frame] + number * patches[of_frame], per_frame) + ids)
        source[-1][ids == _CLASS] = CLASS_ROW
        position.append(np.repeat(first_position[of_frame], per_frame) + ids - _CLASS)
        frame.append(np.repeat(np.where(video[of_frame], number, -1), per_frame))
        frame_lengths.append(per_frame)
        view_lengths.append(shown * frames[members])
        length[name][members] = view_lengths[-1]
        start[name][members] = row + exclusive_sum(view_lengths[-1])
        if name == "v2":
            replaced = [views[i].replaced for i in of_frame]
            source[-1][np.repeat(exclusive_sum(per_frame), lengths_of(replaced)) + 1 + concat(replaced)] = MASK_ROW
        row += len(ids)
    count = len(images) * len(names)
    all_views = concat(view_lengths)
    return VisionBuffer(
        layout,
        source=concat(source),
        position=concat(position),
        frame=concat(frame),
        cls=padded(layout.frame_cls("v0", np.arange(len(views))), frames),
        frame_cu_seqlens=cumulative(concat(frame_lengths)),
        cu_seqlens=cumulative(all_views),
        video_start=int(all_views[:count].sum()),
        video_cu_seqlens=cumulative(all_views[count:]),
        video_cls=concat([layout.frame_cls(name, videos) for name in names]),
        video_cls_cu_seqlens=cumulative(np.tile(frames[videos], len(names))),
    )


def _shown(views: Sequence[SampleViews], members: Ints, name: str) -> tuple[Ints, Ints]:
    """Return the patches that a view shows of one frame of each member, `_CLASS` before them, and their counts."""
    if name == "v1":
        kept = [views[i].keep for i in members]
        return concat([ids for keep in kept for ids in (np.array([_CLASS]), keep)]), lengths_of(kept) + 1
    length = np.array([views[i].grid ** 2 + 1 for i in members], np.int64)
    return ranges(_CLASS, length), length
