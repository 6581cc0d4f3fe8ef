"""Masked inputs in TensorBoard: pictures whole and without the patches that v1 drops, texts with their masks."""

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from sclds.batch import Batch
from sclds.batch.unpacking import Seen, grayed, sample_of
from sclds.config import Config
from sclds.data.tokenizer import Tokenizer

SHOWN_OF_A_KIND = 2
"""Samples of each kind that are shown."""
MASKED_TEXTS = {"t1": "MLM", "t2": "SCL"}
"""Masked text views by name, and how they are called beside a caption."""


@dataclass(frozen=True)
class Shown:
    """One sample: its frames side by side, whole above and masked below, and its texts."""

    name: str
    picture: Tensor
    """(3, H, W) in [0, 1]."""
    text: str
    """Markdown."""


def masked_inputs(batch: Batch, config: Config, tokenizer: Tokenizer) -> list[Shown]:
    """Return the first samples of each kind of a packed batch, which may lie on any device."""
    batch = batch.to(torch.device("cpu"))
    shown = []
    for kind in ("image", "video"):
        members = [i for i, k in enumerate(batch.samples.kinds) if k == kind]
        for turn, row in enumerate(members[:SHOWN_OF_A_KIND]):
            seen = sample_of(batch, row, config)
            rows = [seen.frames, *(grayed(seen, hidden) for name, hidden in seen.hidden.items() if name == "v1")]
            picture = torch.cat([_strip(frames) for frames in rows], dim=1)
            shown.append(Shown(f"{kind}_{turn}", picture, _texts(seen, tokenizer)))
    return shown


def _strip(frames: Tensor) -> Tensor:
    """Lay (F, 3, H, W) frames out as (3, H, F·W)."""
    return frames.permute(1, 2, 0, 3).flatten(2)


def _texts(seen: Seen, tokenizer: Tokenizer) -> str:
    """Return the caption and what is left of it in the masked views."""
    lines = [f"caption: {code(seen.caption)}"]
    lines += [
        f"{said}: {code(tokenizer.decode(seen.texts[n].tolist()))}"
        for n, said in MASKED_TEXTS.items()
        if n in seen.texts
    ]
    return "\n\n".join(lines)


def as_code(text: str) -> str:
    """Return lines as Markdown that keeps them as they are."""
    return "\n".join(f"    {line}" for line in text.splitlines())


def code(text: str) -> str:
    """Return text as Markdown that shows it as it is, whatever it holds: a caption must not become a link or image."""
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{ticks} {' '.join(text.split())} {ticks}"
