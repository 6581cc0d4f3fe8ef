"""What an encoded image or video is, judged cheaply before it is decoded: one bad sample would fail its whole batch."""

from sclds.data.media.images import inspect_image
from sclds.data.media.media_info import MAX_PIXELS, MediaInfo
from sclds.data.media.videos import inspect_video
from sclds.data.storage.shards import BadSampleError, Kind


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
