"""Any texts beside any images or videos: each encoded once, fused in as many pairs as are asked for.

Pre-training shows a text with its own image, or with one wrong one; a downstream task asks several questions about one
image, makes a statement about two, or ranks many captions. The buffers are those of `sclds.batch.packing`, with the
complete views alone.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sclds.batch.attention_plan import Planner
from sclds.batch.dropout_keys import row_keys, sample_keys, view_keys
from sclds.batch.packing import (
    FusionPlanner,
    FusionStream,
    Recipe,
    all_lengths,
    plan_fusion,
    samples_of,
    text_views,
    vision_views,
)
from sclds.batch.ragged import Ints, concat, cumulative, exclusive_sum, padded, ranges
from sclds.batch.types import Batch, Counts, DropoutKeys, Labels, Lengths, Pairs, Reads
from sclds.batch.views import Layout, SampleViews, frame_cls_rows, order_by_size, pack_text, pack_vision
from sclds.objectives import Read

MATCH = "itm"
"""The pair of complete views, by the name that it has in pre-training."""
TEXT_CLS, FRAME_CLS = Read(MATCH, "text", "cls"), Read(MATCH, "vision", "frame_cls")
"""What a head reads of a pair."""


def empty_views(
    sample_id: str, caption: str, kind: str, frames: int, grid: int, text: Ints, dropout_key: int
) -> dict[str, Any]:
    """Return the fields of `SampleViews` of a sample of which nothing is masked."""
    none = np.zeros(0, np.int64)
    masked = dict.fromkeys(("mlm_positions", "mlm_labels", "scl_positions", "keep"), none)
    shown = {"sample_id": sample_id, "caption": caption, "kind": kind, "frames": frames, "grid": grid}
    shown |= {"dropout_key": dropout_key}
    return shown | {"text": text, "text_mlm": text, "text_scl": text} | masked


def text_alone(text: Ints) -> SampleViews:
    """Return a text of (n,) ids as a sample without an image, for evaluation."""
    return SampleViews(**empty_views("", "", "image", 1, 1, text, 0))


def pack_matches(
    texts: Sequence[SampleViews],
    media: Sequence[SampleViews],
    pairs: Ints,
    patches: Tensor,
    recipe: Recipe,
    read_words: bool = False,
) -> Batch:
    """Pack texts, images and videos, and the pairs that fusion is to see.

    Args:
        texts: T samples whose `text` is packed.
        media: V samples whose image or video is packed.
        pairs: (P, 2) numbers of a text and of an image or video.
        patches: (R, 3·p·p) normalized pixels of all frames of `media`, rows by sample, frame and patch.
        recipe: Of the run.
        read_words: Whether the last fusion layer gives all rows of the text, one pair behind the other, and not its
            [CLS] alone.

    Returns:
        A batch without objectives. `text.cls` (T,) and `vision.cls` (V, most frames) are in the order of `texts` and
        `media`, `reads.places[TEXT_CLS]` (P,) and `[FRAME_CLS]` (P, most frames) in the order of `pairs`.
        `samples.order` is that of `media` in their buffer.
    """
    text_order, order = order_by_size(texts), order_by_size(media)
    text = pack_text(texts, np.array(text_order, np.int64), ("t0",), recipe.pad_id)
    vision = pack_vision(media, np.array(order, np.int64), ("v0",), recipe.grids)
    own = _Pairs(text.layout, vision.layout, pairs, read_words)
    lengths = all_lengths(
        text,
        vision,
        pair_text_cu_seqlens=cumulative(own.text_length),
        pair_vision_cu_seqlens=cumulative(own.vision_length),
        read_text_cu_seqlens=cumulative(own.read_length),
        read_vision_cu_seqlens=cumulative(own.frames),
    )
    plan, keys = Planner(), (sample_keys(texts), sample_keys(media))
    return Batch(
        text=text_views(text, ("t0",), recipe, lengths, plan),
        vision=vision_views(vision, ("v0",), patches, recipe, lengths, plan),
        pairs=own.fused(recipe, lengths, plan),
        reads=own.reads(),
        labels=Labels(mlm=torch.zeros(0, dtype=torch.int64), itm=torch.zeros(0, dtype=torch.int64)),
        negatives=None,
        identities=None,
        dropout_keys=DropoutKeys(
            torch.from_numpy(view_keys(keys[0], text.layout, int(text.cu_seqlens[-1]))),
            torch.from_numpy(view_keys(keys[1], vision.layout, int(vision.cu_seqlens[-1]))),
            *map(torch.from_numpy, own.keys(*keys)),
        ),
        lengths=lengths,
        samples=samples_of(media, order),
        counts=Counts(len(media), 0, 0, (), tuple(sum(v.frames > n for v in media) for n in range(recipe.max_frames))),
        objectives=(),
    )


class _Pairs:
    """The pairs in the order in which they are packed: equal sizes side by side.

    Args:
        text: Where each text lies.
        vision: Where each image or video lies.
        pairs: (P, 2) in the order of those who asked.
        read_words: Whether all rows of the text are read.
    """

    def __init__(self, text: Layout, vision: Layout, pairs: Ints, read_words: bool):
        self._text, self._vision = text, vision
        length_t, length_v = text.length["t0"][pairs[:, 0]], vision.length["v0"][pairs[:, 1]]
        self._packed = np.lexsort((length_v, length_t))
        self._texts, self._media = pairs[self._packed].T
        self.text_length, self.vision_length = length_t[self._packed], length_v[self._packed]
        self.frames = vision.frames[self._media]
        self.read_length = self.text_length if read_words else np.ones(len(pairs), np.int64)

    def keys(self, of_texts: Ints, of_media: Ints) -> tuple[Ints, Ints]:
        """Return the dropout keys of both streams' rows; a pair's follows from both of its samples."""
        own = of_texts[self._texts] + 3 * of_media[self._media]
        return row_keys(f"{MATCH} text", own, self.text_length), row_keys(f"{MATCH} vision", own, self.vision_length)

    def fused(self, recipe: Recipe, lengths: Lengths, plan: Planner) -> Pairs:
        """Return the rows of both streams, and who attends to whom."""
        everyone = slice(0, len(self._texts))
        streams = (
            FusionStream(lengths.text_cu_seqlens, lengths.pair_text_cu_seqlens, lengths.read_text_cu_seqlens, everyone),
            FusionStream(
                lengths.vision_cu_seqlens, lengths.pair_vision_cu_seqlens, lengths.read_vision_cu_seqlens, everyone
            ),
        )
        return Pairs(
            torch.from_numpy(self._text.rows("t0", self._texts)),
            torch.from_numpy(self._vision.rows("v0", self._media)),
            plan_fusion(*streams, FusionPlanner(recipe.fusion_layers, plan, recipe.attention)),
            (MATCH,) if len(self._texts) else (),
        )

    def reads(self) -> Reads:
        """Return the rows of every pair that are read, and where each [CLS] is in the order of those who asked."""
        text = ranges(exclusive_sum(self.text_length), self.read_length)
        frame_cls = frame_cls_rows(exclusive_sum(self.vision_length), self.vision_length, self.frames)
        table = padded(np.arange(len(frame_cls)), self.frames)
        asked = np.empty_like(self._packed)
        asked[self._packed] = np.arange(len(self._packed))
        return Reads(
            torch.from_numpy(text),
            torch.from_numpy(concat([frame_cls])),
            {
                TEXT_CLS: torch.from_numpy(exclusive_sum(self.read_length)[asked]),
                FRAME_CLS: torch.from_numpy(table[asked]),
            },
        )
