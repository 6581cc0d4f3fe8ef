"""What the model was given, as one picture for TensorBoard: complete view, masked view and both captions."""

import textwrap
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sclds.config import Config
from sclds.data.packing import Batch
from sclds.data.tokenizer import Tokenizer

SAMPLES = 4
"""Rows of the figure."""
SIDE = 160
"""Pixels of a shown frame."""
GAP = 12
TEXT_WIDTH = 380
FONT_SIZE = 14
DROPPED = (150, 150, 150)
"""Colour of patches that the masked view does not hold."""
INK, PAPER = (25, 25, 25), (255, 255, 255)

Pixels = NDArray[np.uint8]


def masked_inputs_figure(batch: Batch, tokenizer: Tokenizer, config: Config) -> Pixels:
    """Draw the first samples of a packed batch: v0, v1 with dropped patches grey, and captions t0, t1 and t2.

    Of a clip its middle frame is shown; all frames share one mask.

    Returns:
        (H, W, 3) picture.
    """
    patches = batch["patches"].detach().float().cpu()
    count = min(SAMPLES, len(batch["sample_ids"]))
    width = 2 * SIDE + TEXT_WIDTH + 4 * GAP
    canvas = Image.new("RGB", (width, count * (SIDE + GAP) + GAP), PAPER)
    draw = ImageDraw.Draw(canvas)
    segments = _segments(batch)
    for sample in range(count):
        top = GAP + sample * (SIDE + GAP)
        complete, masked = (_source_rows(batch, segments[view][sample]) for view in ("v0", "v1"))
        frame = _frame(patches, complete, complete, config)
        canvas.paste(_picture(frame), (GAP, top))
        canvas.paste(_picture(_frame(patches, complete, masked, config)), (2 * GAP + SIDE, top))
        lines = [line for view in range(3) for line in _caption(batch, tokenizer, sample, view)]
        draw.multiline_text((3 * GAP + 2 * SIDE, top), "\n".join(lines), INK, ImageFont.load_default(FONT_SIZE))
    return np.asarray(canvas)


def _segments(batch: Batch) -> dict[str, list[tuple[int, int]]]:
    """Return, by view and sample, the middle frame's segment of the vision buffer.

    Segments lie by kind (pictures, then clips), view and sample; `frame_cu` counts every frame.
    """
    starts = batch["frame_cu"].tolist()
    frame_counts = batch["frame_count"].tolist()
    views = ("v0", "v1", "v2") if "mltc" in batch["roles"] else ("v0", "v1")
    segments: dict[str, list[tuple[int, int]]] = {view: [(0, 0)] * len(frame_counts) for view in views}
    first = 0
    for kind in ("image", "video"):
        for view in views:
            for sample, frames in enumerate(frame_counts):
                if batch["kinds"][sample] == kind:
                    middle = first + frames // 2
                    segments[view][sample] = (starts[middle], starts[middle + 1])
                    first += frames
    return segments


def _source_rows(batch: Batch, segment: tuple[int, int]) -> torch.Tensor:
    """Return the rows of `patches` that a frame segment shows, without its [CLS]."""
    return batch["vision_source"][segment[0] + 1 : segment[1]].cpu()


def _frame(patches: torch.Tensor, complete: torch.Tensor, shown: torch.Tensor, config: Config) -> Pixels:
    """Put a frame's patches together; what is not `shown` is grey."""
    side, grid = config.model.vision.patch_size, round(len(complete) ** 0.5)
    pixels = patches[complete].reshape(-1, 3, side, side)
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (config.data.mean, config.data.std))
    pixels = ((pixels * std + mean).clamp(0, 1) * 255).round()
    hidden = ~torch.isin(complete, shown)
    pixels[hidden] = torch.tensor(DROPPED, dtype=pixels.dtype).reshape(1, 3, 1, 1)
    rows = pixels.reshape(grid, grid, 3, side, side).permute(0, 3, 1, 4, 2)
    return rows.reshape(grid * side, grid * side, 3).to(torch.uint8).numpy()


def _picture(frame: Pixels) -> Image.Image:
    """Return a frame at the figure's size; patch edges stay sharp."""
    return Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.NEAREST)


def _caption(batch: Batch, tokenizer: Tokenizer, sample: int, view: int) -> list[str]:
    """Return one view of the caption, wrapped, with what the view is for and masked words as [MASK]."""
    ids = _text(batch, view * len(batch["sample_ids"]) + sample)
    heading = ("t0 complete", "t1 masked words", "t2 masked meaning")[view]
    pieces = [tokenizer.decode(run) if run else "[MASK]" for run in _runs(ids[1:-1], tokenizer.mask_id)]
    sentence = " ".join(" ".join(pieces).split())
    return textwrap.wrap(f"{heading}: {sentence}", TEXT_WIDTH * 2 // FONT_SIZE, max_lines=3, placeholder=" …")


def _text(batch: Batch, segment: int) -> list[Any]:
    """Return the token ids of a text segment."""
    first, last = batch["text_cu"][segment : segment + 2].tolist()
    return batch["text_ids"][first:last].tolist()


def _runs(ids: list[int], mask_id: int) -> list[list[int]]:
    """Cut ids at mask tokens, each of which becomes an empty run."""
    runs: list[list[int]] = []
    for token in ids:
        if token == mask_id:
            runs.append([])
        elif runs and runs[-1]:
            runs[-1].append(token)
        else:
            runs.append([token])
    return runs
