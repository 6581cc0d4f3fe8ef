"""What is known of an encoded image or video before it is decoded."""

from dataclasses import dataclass

from sclds.config import DataConfig

MAX_PIXELS: int = DataConfig.model_fields["max_pixels"].default
"""Most pixels of an image or frame where no configuration says otherwise."""


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """Size in pixels as shown, frames (1 for an image) and the codec's or format's name."""

    width: int
    height: int
    frames: int
    codec: str
    times: tuple[float, ...] = ()
    """(frames + 1,) for a video: seconds at which each frame appears, from the first, and at which the last ends."""
    plain: bool = True
    """DALI makes of it what the definition does (Pillow, FFmpeg): an image on any device, a video on a GPU."""
