"""Masked inputs as a person can see them: pictures whole and with the patches that v1 drops, texts with their masks."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sclds.config import Config
from sclds.data.packing import Batch
from sclds.data.tokenizer import Tokenizer

SHOWN_OF_A_KIND = 2
"""Samples of each kind that are shown."""
DROPPED = 0.5
"""Grey level of a dropped patch."""


@dataclass(frozen=True)
class Shown:
    """One sample: its frames side by side, whole above and masked below, and its texts."""

    name: str
    picture: Tensor
    """(3, H, W) in [0, 1]."""
    text: str
    """Markdown."""


def masked_inputs(batch: Batch, config: Config, tokenizer: Tokenizer) -> list[Shown]:
    """Return the first samples of each kind of a packed batch (on CPU)."""
    kinds = batch["kinds"]
    shown = []
    for kind in ("image", "video"):
        members = [i for i, k in enumerate(kinds) if k == kind]
        for turn, sample in enumerate(members[:SHOWN_OF_A_KIND]):
            text = _texts(batch, sample, tokenizer)
            shown.append(Shown(f"{kind}_{turn}", _picture(batch, sample, config), text))
    return shown


def _picture(batch: Batch, sample: int, config: Config) -> Tensor:
    """Return a sample's frames whole and, below, without what v1 drops."""
    patch = config.model.vision.patch_size
    grids = [(config.data.image_size if k == "image" else config.data.video_size) // patch for k in batch["kinds"]]
    frames = batch["frame_count"].tolist()
    first = sum(f * g * g for f, g in zip(frames[:sample], grids[:sample], strict=True))
    count = frames[sample] * grids[sample] ** 2
    mean, std = (torch.tensor(values)[:, None, None] for values in (config.data.mean, config.data.std))
    pixels = batch["patches"][first : first + count].float().view(count, 3, patch, patch) * std + mean
    rows = _masked_view(batch, sample)
    kept = torch.zeros(count, dtype=torch.bool)
    kept[rows[rows >= 0] - first] = True
    masked = torch.where(kept[:, None, None, None], pixels, torch.full_like(pixels, DROPPED))
    strips = [_strip(p, frames[sample], grids[sample]) for p in (pixels, masked)]
    return torch.cat(strips, dim=1).clamp(0, 1)


def _masked_view(batch: Batch, sample: int) -> Tensor:
    """Return the patch rows of v1 of a sample; views lie pictures before clips, then by view, then in packing order."""
    kinds, view_cu = batch["kinds"], batch["vision_cu"]
    views = (len(view_cu) - 1) // len(kinds)
    alike = [i for i in batch["order"] if kinds[i] == kinds[sample]]
    before = (len(kinds) - len(alike)) * views if kinds[sample] == "video" else 0
    segment = before + len(alike) + alike.index(sample)
    return batch["vision_source"][int(view_cu[segment]) : int(view_cu[segment + 1])]


def _strip(patches: Tensor, frames: int, grid: int) -> Tensor:
    """Lay (frames·grid², 3, p, p) patches out as (3, grid·p, frames·grid·p)."""
    side = patches.shape[-1]
    return (
        patches.view(frames, grid, grid, 3, side, side)
        .permute(3, 1, 4, 0, 2, 5)
        .reshape(3, grid * side, frames * grid * side)
    )


def _texts(batch: Batch, sample: int, tokenizer: Tokenizer) -> str:
    """Return the caption and what is left of it in t1 and t2."""
    cu, count, place = batch["text_cu"].tolist(), len(batch["order"]), batch["order"].index(sample)
    spans = [(cu[view * count + place], cu[view * count + place + 1]) for view in (1, 2)]
    mlm, scl = (tokenizer.decode(batch["text_ids"][start:end].tolist()) for start, end in spans)
    return f"caption: `{batch['captions'][sample]}`\n\nMLM: `{mlm}`\n\nSCL: `{scl}`"
