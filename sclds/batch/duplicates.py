"""Which samples say or show the same: identities of captions and images, and who may be whose wrong ITM partner."""

import hashlib
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sclds.batch.ragged import Ints
from sclds.batch.views import SampleViews


def normalized_caption(caption: str) -> str:
    """Return a caption as it is compared: NFKC, case folded, runs of white space as one space, no final full stop."""
    return " ".join(unicodedata.normalize("NFKC", caption).casefold().split()).rstrip(". ")


def fingerprint(content: bytes) -> int:
    """Return 64 bits that stand for any content; of n contents two collide with a chance of n² / 2^65."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big", signed=True)


def caption_identities(views: Sequence[SampleViews]) -> Ints:
    """Return (B,) numbers that are equal where captions are; one of which nothing is left is like no other's."""
    return np.array([_identity(normalized_caption(v.caption), v.sample_id) for v in views], np.int64)


def image_identities(views: Sequence[SampleViews]) -> Ints:
    """Return (B,) numbers that are equal where images or videos are, byte for byte as they are stored."""
    return np.array([_identity("", v.sample_id) if v.image_id is None else v.image_id for v in views], np.int64)


def _identity(text: str, sample_id: str) -> int:
    # the first byte keeps captions and sample ids apart
    return fingerprint(("c" + text if text else "s" + sample_id).encode("utf-8", "surrogatepass"))


def wrong_partners(views: Sequence[SampleViews], rows: Ints, members: Ints, *, duplicates: bool) -> NDArray[np.bool_]:
    """Return which members' images may be shown as wrong ones beside the texts of rows.

    Such a partner is of the same kind, frames and grid, so that only what is seen tells it from the right one, and is
    never the same sample.

    Args:
        views: B samples.
        rows: Numbers of samples; broadcast against `members`.
        members: Numbers of samples.
        duplicates: Whether a sample of the same caption or the same image may be one, as the published method has it.
    """
    shapes = np.array([(v.kind == "video", v.frames, v.grid) for v in views])
    allowed = (shapes[rows] == shapes[members]).all(-1)
    _, sample = np.unique([v.sample_id for v in views], return_inverse=True)
    same = [sample] if duplicates else [sample, caption_identities(views), image_identities(views)]
    for identity in same:
        allowed &= identity[rows] != identity[members]
    return allowed
