"""A packed batch taken apart again: what the model sees of each sample, for people who look.

Everything is read from the batch itself, not from what went into it, so that a fault of packing would be seen.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sclds.batch.patches import unpatchify
from sclds.batch.types import Batch
from sclds.config import Config

GREY = 0.5
"""Grey level of a patch that a view hides."""


@dataclass(frozen=True)
class Seen:
    """One sample of a batch; F frames of g x g patches of p x p pixels."""

    sample_id: str
    kind: str
    caption: str
    frames: Tensor
    """(F, 3, g·p, g·p) float, v0 in [0, 1]."""
    hidden: dict[str, Tensor]
    """Masked vision view in use (v1, v2) → (F, g, g) bool, patches that it does not show."""
    texts: dict[str, Tensor]
    """Text view in use → (n,) ids."""
    mlm: dict[int, int]
    """Position in the view that MLM reads → the id that it is to find there."""
    itm_partner: int | None
    """Row of the batch whose image ITM shows beside the caption; None where ITM is not in use, or where the model
    draws it (hard negatives)."""


def sample_of(batch: Batch, row: int, config: Config) -> Seen:
    """Return what the model sees of one row of a packed batch (on CPU)."""
    kinds, patch = batch.samples.kinds, config.model.vision.patch_size
    grids = [(config.data.image_size if k == "image" else config.data.video_size) // patch for k in kinds]
    frames = batch.samples.frames
    first = sum(f * g * g for f, g in zip(frames[:row], grids[:row], strict=True))
    shape = (frames[row], grids[row], grids[row])
    mean, std = (torch.tensor(values)[:, None, None] for values in (config.data.mean, config.data.std))
    count = math.prod(shape)
    whole = (unpatchify(batch.vision.patches[first : first + count].float(), grids[row]) * std + mean).clamp(0, 1)
    hidden = {}
    for name in batch.vision.names[1:]:
        rows = _view_rows(batch, row, name)
        shown = torch.zeros(count, dtype=torch.bool)
        shown[rows[rows >= 0] - first] = True
        hidden[name] = ~shown.view(shape)
    spans = {name: _text_span(batch, row, name) for name in batch.text.names}
    return Seen(
        batch.samples.ids[row],
        kinds[row],
        batch.samples.captions[row],
        whole,
        hidden,
        {name: batch.text.ids[start:end] for name, (start, end) in spans.items()},
        _mlm_targets(batch, *spans.get(config.losses.mlm_view, (0, 0))),
        _itm_partner(batch, row),
    )


def grayed(seen: Seen, hidden: Tensor) -> Tensor:
    """Return (F, 3, H, W) frames with hidden patches grey; `hidden` is (F, g, g) bool."""
    patch = seen.frames.shape[-1] // hidden.shape[-1]
    cover = hidden.repeat_interleave(patch, 1).repeat_interleave(patch, 2)[:, None]
    return torch.where(cover, torch.full_like(seen.frames, GREY), seen.frames)


def _text_span(batch: Batch, row: int, name: str) -> tuple[int, int]:
    """Return where a text view of a sample lies in `text_ids`: view by view, each in packing order."""
    order, cu_seqlens = batch.samples.order, batch.lengths.text_cu_seqlens
    at = batch.text.names.index(name) * len(order) + order.index(row)
    return int(cu_seqlens[at]), int(cu_seqlens[at + 1])


def _view_rows(batch: Batch, row: int, name: str) -> Tensor:
    """Return the rows of `vision_source` of one view of a sample."""
    start, end = _view_span(batch, row, name)
    return batch.vision.source[start:end]


def _view_span(batch: Batch, row: int, name: str) -> tuple[int, int]:
    """Return where a vision view of a sample lies: images before videos, then view by view, each in packing order."""
    kinds, names, cu_seqlens = batch.samples.kinds, batch.vision.names, batch.lengths.vision_cu_seqlens
    alike = [i for i in batch.samples.order if kinds[i] == kinds[row]]
    before = (len(kinds) - len(alike)) * len(names) if kinds[row] == "video" else 0
    segment = before + names.index(name) * len(alike) + alike.index(row)
    return int(cu_seqlens[segment]), int(cu_seqlens[segment + 1])


def _mlm_targets(batch: Batch, start: int, end: int) -> dict[int, int]:
    """Return which positions of the text that lies at [start, end) the MLM head reads, and the ids it is to find."""
    reads = [read for objective in batch.objectives if objective.head == "mlm" for read in objective.head_reads]
    if not reads:
        return {}
    rows = batch.pairs.text_rows[batch.reads.text_rows[batch.reads.places[reads[0]]]]
    inside = (rows >= start) & (rows < end)
    return dict(zip((rows[inside] - start).tolist(), batch.labels.mlm[inside].tolist(), strict=True))


def _itm_partner(batch: Batch, row: int) -> int | None:
    """Return the sample whose v0 the ITM pair of a sample holds."""
    order = batch.samples.order
    if "itm" not in batch.pairs.names or batch.negatives is not None:
        return None
    pair = batch.pairs.names.index("itm") * len(order) + order.index(row)
    start = int(batch.pairs.vision_rows[int(batch.lengths.pair_vision_cu_seqlens[pair])])
    return next(other for other in order if _view_span(batch, other, "v0")[0] == start)
