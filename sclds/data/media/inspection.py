"""What an encoded image or video is, judged cheaply before it is decoded: one bad sample would fail its whole batch."""

from sclds.data.media.images import inspect_image
from sclds.data.media.media_info import MAX_PIXELS, MediaInfo
from sclds.data.media.videos import inspect_video
from sclds.data.storage.shards import BadSampleError, Kind

_MOST_FRAMES = 2**20
"""Frames whose times are remembered, some 32 MiB."""


def inspect(kind: Kind, content: bytes, max_pixels: int = MAX_PIXELS) -> MediaInfo:
    """Read the headers of an image or video, as a rule without decoding.

    Args:
        kind: What it should be.
        content: The encoded image or video.
        max_pixels: Most pixels of an image or frame; by default that of `data.max_pixels`.

    Raises:
        BadSampleError: The content is truncated, too large, has no frame, or is not of this kind.
    """
    if not content:
        raise BadSampleError(f"its {'image' if kind == 'image' else 'video'} is empty (0 bytes)")
    return inspect_image(content, max_pixels) if kind == "image" else inspect_video(content, max_pixels)


class Inspections:
    """What was found of videos, each of which costs as much as dozens of images, or is decoded whole. For one thread.

    What lies beyond `_MOST_FRAMES` is looked at each time: epochs come in cycles, where the first to be remembered is
    as likely to come again as any other.

    Args:
        max_pixels: As `inspect` takes it.
    """

    def __init__(self, max_pixels: int):
        self._max_pixels = max_pixels
        self._videos: dict[tuple[int, int], MediaInfo] = {}
        self._frames = 0

    def __call__(self, kind: Kind, content: bytes, member: tuple[int, int] | None) -> MediaInfo:
        """Return what `inspect` finds, with its errors.

        Args:
            kind: As there.
            content: As there.
            member: Names the bytes, which are always the same under it; None where nobody vouches for that.
        """
        found = None if member is None else self._videos.get(member)
        if found is None:
            found = inspect(kind, content, self._max_pixels)
            if member is not None and kind == "video" and self._frames + found.frames <= _MOST_FRAMES:
                self._videos[member] = found
                self._frames += found.frames
        return found
