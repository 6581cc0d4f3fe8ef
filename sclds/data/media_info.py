"""What is known of an encoded picture or clip before it is decoded."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """Size in pixels as shown, frames (1 for a picture) and the codec's or format's name."""

    width: int
    height: int
    frames: int
    codec: str
