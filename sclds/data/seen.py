"""A packed batch taken apart again: what the model sees of each sample, for people who look.

Everything is read from the batch itself, not from what went into it, so that a fault of packing would be seen.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sclds.config import Config
from sclds.data.packing import MASK_ROW, Batch

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
    kept: Tensor
    """(F, g, g) bool, patches that v1 keeps."""
    replaced: Tensor | None
    """(F, g, g) bool, patches that v2 replaces; None where v2 is not in use."""
    text: Tensor
    """(n,) ids of t0."""
    text_mlm: Tensor
    """(n,) ids of t1."""
    mlm: dict[int, int]
    """Position in t1 → the id that MLM is to find there."""
    text_scl: Tensor
    """(n,) ids of t2."""
    itm_partner: int | None
    """Row of the batch whose picture ITM shows beside the caption; None where ITM is not in use."""


def sample_of(batch: Batch, row: int, config: Config) -> Seen:
    """Return what the model sees of one row of a packed batch (on CPU)."""
    kind, patch = batch["kinds"][row], config.model.vision.patch_size
    grids = [(config.data.image_size if k == "image" else config.data.video_size) // patch for k in batch["kinds"]]
    frames = batch["frame_count"].tolist()
    first = sum(f * g * g for f, g in zip(frames[:row], grids[:row], strict=True))
    count, grid = frames[row] * grids[row] ** 2, grids[row]
    mean, std = (torch.tensor(values)[:, None, None] for values in (config.data.mean, config.data.std))
    pixels = batch["patches"][first : first + count].float().view(frames[row], grid, grid, 3, patch, patch) * std + mean
    whole = pixels.permute(0, 3, 1, 4, 2, 5).reshape(frames[row], 3, grid * patch, grid * patch).clamp(0, 1)
    kept = torch.zeros(count, dtype=torch.bool)
    rows = _view_rows(batch, row, 1)
    kept[rows[rows >= 0] - first] = True
    replaced = None
    if "mltc" in batch["roles"]:
        tokens = _view_rows(batch, row, 2).view(frames[row], 1 + grid**2)  # [CLS] first
        replaced = (tokens[:, 1:] == MASK_ROW).view(frames[row], grid, grid)
    spans = [_text_span(batch, row, view) for view in range(3)]
    t0, t1, t2 = (batch["text_ids"][start:end] for start, end in spans)
    return Seen(
        batch["sample_ids"][row],
        kind,
        batch["captions"][row],
        whole,
        kept.view(frames[row], grid, grid),
        replaced,
        t0,
        t1,
        _mlm_targets(batch, *spans[1]),
        t2,
        _itm_partner(batch, row),
    )


def greyed(seen: Seen, hidden: Tensor) -> Tensor:
    """Return (F, 3, H, W) frames with hidden patches grey; `hidden` is (F, g, g) bool."""
    patch = seen.frames.shape[-1] // hidden.shape[-1]
    cover = hidden.repeat_interleave(patch, 1).repeat_interleave(patch, 2)[:, None]
    return torch.where(cover, torch.full_like(seen.frames, GREY), seen.frames)


def _text_span(batch: Batch, row: int, view: int) -> tuple[int, int]:
    """Return where a text view of a sample lies in `text_ids`; views lie one after the other, each of all samples."""
    at = view * len(batch["kinds"]) + row
    return int(batch["text_cu"][at]), int(batch["text_cu"][at + 1])


def _view_rows(batch: Batch, row: int, view: int) -> Tensor:
    """Return the rows of `vision_source` of one view of a sample; views lie by kind, then view, then sample."""
    start, end = _view_span(batch, row, view)
    rows: Tensor = batch["vision_source"][start:end]
    return rows


def _view_span(batch: Batch, row: int, view: int) -> tuple[int, int]:
    kinds, cu = batch["kinds"], batch["vision_cu"]
    views, pictures = (len(cu) - 1) // len(kinds), kinds.count("image")
    turn = kinds[:row].count(kinds[row])
    if kinds[row] == "image":
        segment = view * pictures + turn
    else:
        segment = views * pictures + view * (len(kinds) - pictures) + turn
    return int(cu[segment]), int(cu[segment + 1])


def _mlm_targets(batch: Batch, start: int, end: int) -> dict[int, int]:
    """Return which positions of the t1 that lies at [start, end) the MLM head reads, and the ids it is to find."""
    if "mlm" not in batch["roles"]:
        return {}
    rows = batch["pair_text"][batch["read_text"][batch["head_mlm"]]]
    inside = (rows >= start) & (rows < end)
    return dict(zip((rows[inside] - start).tolist(), batch["mlm_label"][inside].tolist(), strict=True))


def _itm_partner(batch: Batch, row: int) -> int | None:
    """Return the sample whose v0 the ITM pair of a sample holds."""
    if "itm" not in batch["roles"]:
        return None
    pair = batch["roles"].index("itm") * len(batch["kinds"]) + row
    start = int(batch["pair_vision"][int(batch["pair_vision_cu"][pair])])
    return next(other for other in range(len(batch["kinds"])) if _view_span(batch, other, 0)[0] == start)
