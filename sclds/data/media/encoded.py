"""What is to be decoded of one sample."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sclds.data.media.augment import NOTHING, Augmentation
from sclds.data.media.geometry import WHOLE, Window
from sclds.data.media.media_info import MediaInfo
from sclds.data.storage.shards import Kind


@dataclass(frozen=True)
class Encoded:
    """One sample to decode.

    Args:
        kind: What it shows.
        content: The encoded image or video.
        info: What `inspect` found.
        frames: (F,) numbers of the frames to take; [0] for an image.
        window: The part that is seen.
        augmentation: What RandAugment does to it.
    """

    kind: Kind
    content: bytes
    info: MediaInfo
    frames: NDArray[np.int32]
    window: Window = WHOLE
    augmentation: Augmentation = NOTHING
