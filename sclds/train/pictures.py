"""Masked inputs in TensorBoard: pictures whole and without the patches that v1 drops, texts with their masks."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sclds.config import Config
from sclds.data.packing import Batch
from sclds.data.seen import Seen, greyed, sample_of
from sclds.data.tokenizer import Tokenizer

SHOWN_OF_A_KIND = 2
"""Samples of each kind that are shown."""


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
    shown = []
    for kind in ("image", "video"):
        members = [i for i, k in enumerate(batch["kinds"]) if k == kind]
        for turn, row in enumerate(members[:SHOWN_OF_A_KIND]):
            seen = sample_of(batch, row, config)
            picture = torch.cat([_strip(seen.frames), _strip(greyed(seen, ~seen.kept))], dim=1)
            shown.append(Shown(f"{kind}_{turn}", picture, _texts(seen, tokenizer)))
    return shown


def _strip(frames: Tensor) -> Tensor:
    """Lay (F, 3, H, W) frames out as (3, H, F·W)."""
    return frames.permute(1, 2, 0, 3).flatten(2)


def _texts(seen: Seen, tokenizer: Tokenizer) -> str:
    """Return the caption and what is left of it in t1 and t2."""
    mlm, scl = (tokenizer.decode(ids.tolist()) for ids in (seen.text_mlm, seen.text_scl))
    return f"caption: `{seen.caption}`\n\nMLM: `{mlm}`\n\nSCL: `{scl}`"
