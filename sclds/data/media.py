"""What an encoded picture or clip is, judged cheaply before DALI sees it: one bad sample would fail its whole batch."""

import io

from PIL import Image

from sclds.data.clips import inspect_clip
from sclds.data.media_info import MediaInfo
from sclds.data.shards import BadSampleError, Kind

_TAIL = 64
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # EXIF: the picture lies on its side


def inspect(kind: Kind, content: bytes) -> MediaInfo:
    """Read the headers of a picture, or of all packets of a clip, without decoding.

    Raises:
        BadSampleError: The content is truncated, has no frame, or is not of this kind.
    """
    return _inspect_image(content) if kind == "image" else inspect_clip(content)


def _inspect_image(content: bytes) -> MediaInfo:
    try:
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
            codec = image.format or "unknown"
            # Pillow would decode a PNG to look for EXIF that stands after the pixels
            if (codec != "PNG" or "exif" in image.info) and image.getexif().get(_ORIENTATION) in _TURNED:
                width, height = height, width
            if not _complete(codec, content):
                image.load()  # the end is not where it should be: trailing bytes are harmless, missing ones raise here
    except Image.DecompressionBombError as fault:
        raise BadSampleError("its picture is too large to be one") from fault
    except (OSError, ValueError, SyntaxError) as fault:
        reason = "is truncated" if "truncated" in str(fault) else "cannot be decoded"
        raise BadSampleError(f"its picture {reason}") from fault
    return MediaInfo(width, height, 1, codec)


def _complete(codec: str, content: bytes) -> bool:
    """Return whether the bytes end as a whole picture of this format ends."""
    if codec == "WEBP":
        return len(content) >= int.from_bytes(content[4:8], "little") + 8
    return _ENDS.get(codec, b"") in content[-_TAIL:]
