"""How large a micro-batch is, and how much larger it would be with padding; known on the host from its lengths."""

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
from torch import Tensor

from sclds.batch.ragged import Ints
from sclds.batch.types import Batch


@dataclass(frozen=True)
class Sizes:
    """Sizes of micro-batches; those of several add up."""

    images: int = 0
    """Samples with an image."""
    videos: int = 0
    texts: int = 0
    """Complete texts: one a sample, other than that in downstream tasks alone."""
    image_text: int = 0
    """Tokens of the complete texts beside images."""
    video_text: int = 0
    tokens: int = 0
    """Tokens of all views, text and vision, that the encoders see."""
    padded: int = 0
    """The same, if every text view were as long as the longest text of the micro-batch, and every vision view as the
    largest of its kind."""

    def __add__(self, other: "Sizes") -> "Sizes":
        """Return the sizes of both together."""
        return Sizes(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def padding_avoided(self) -> float:
        """The share of a padded batch's tokens that would be padding."""
        return 1 - self.tokens / self.padded if self.padded else 0.0


def sizes_of(batch: Batch) -> Sizes:
    """Return the sizes of a micro-batch."""
    texts = _lengths(batch.lengths.text_cu_seqlens).reshape(len(batch.text.names), -1)
    visions, videos = _lengths(batch.lengths.vision_cu_seqlens), _lengths(batch.lengths.video_cu_seqlens)
    views = len(batch.vision.names)
    blocks = [texts, visions[: len(visions) - len(videos)].reshape(views, -1), videos.reshape(views, -1)]
    return Sizes(
        **_by_kind(batch, texts[0]),
        texts=texts.shape[1],
        tokens=sum(int(block.sum()) for block in blocks),
        padded=sum(int(block.max(axis=1, initial=0).sum()) * block.shape[1] for block in blocks),
    )


def sizes_of_all(batches: Iterable[Batch]) -> Sizes:
    """Return the sizes of several micro-batches together."""
    return sum(map(sizes_of, batches), start=Sizes())


def _by_kind(batch: Batch, complete: Ints) -> dict[str, int]:
    """Return images and videos, and the tokens of the complete texts beside them."""
    kinds = np.array([batch.samples.kinds[row] for row in batch.samples.order])
    video = kinds == "video"
    if len(complete) == len(kinds):
        beside = int(complete[video].sum())
    else:  # of a downstream task with several texts a sample
        beside = round(int(complete.sum()) * float(video.mean()))
    kinds_of = {"images": int((~video).sum()), "videos": int(video.sum())}
    return kinds_of | {"image_text": int(complete.sum()) - beside, "video_text": beside}


def _lengths(cu_seqlens: Tensor) -> Ints:
    return np.diff(cu_seqlens.numpy()).astype(np.int64)
