"""What an encoded image or video is, judged cheaply before DALI sees it: one bad sample would fail its whole batch."""

import io

from PIL import Image

from sclds.data.media.media_info import MAX_PIXELS, MediaInfo
from sclds.data.media.video_faults import check_size
from sclds.data.media.videos import inspect_video
from sclds.data.storage.shards import BadSampleError, Kind

_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "TIFF")
"""What is decoded, by Pillow's names. Not JPEG 2000: damaged files of it crash DALI's decoder, and with it the run."""
_TIFF_MODES = ("1", "L", "P", "RGB", "RGBA", "CMYK", "I;16")
"""Pixels of a TIFF that DALI decodes as Pillow does; it makes rubbish of Lab and of floating point."""
_TAIL = 64
_ENDS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}
_WEBP_FLAGS, _WEBP_HAS_EXIF = 20, 0x08
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # EXIF: the image lies on its side


def inspect(kind: Kind, content: bytes, max_pixels: int = MAX_PIXELS) -> MediaInfo:
    """Read the headers of an image, or of all packets of a video, without decoding.

    Args:
        kind: What it should be.
        content: The encoded image or video.
        max_pixels: Most pixels of an image or frame; by default that of `data.max_pixels`.

    Raises:
        BadSampleError: The content is truncated, too large, has no frame, or is not of this kind.
    """
    if not content:
        raise BadSampleError(f"its {'image' if kind == 'image' else 'video'} is empty (0 bytes)")
    return _inspect_image(content, max_pixels) if kind == "image" else inspect_video(content, max_pixels)


def _inspect_image(content: bytes, max_pixels: int) -> MediaInfo:
    try:
        with Image.open(io.BytesIO(content)) as image:
            codec = image.format or "unknown"
            if codec not in _FORMATS:
                raise BadSampleError(f"its image is {codec}; JPEG, PNG, WebP, BMP and TIFF are decoded")
            if codec == "TIFF" and image.mode not in _TIFF_MODES:
                raise BadSampleError(f"its image is a TIFF with pixels of mode {image.mode}, which is not decoded")
            width, height = image.size
            check_size("image", width, height, max_pixels)
            if _lies_on_its_side(image, content):
                width, height = height, width
            if not _complete(codec, content):
                image.load()  # the end is not where it should be: trailing bytes are harmless, missing ones raise here
    except BadSampleError:
        raise
    except Image.DecompressionBombError as fault:
        raise BadSampleError(f"its image has more pixels than data.max_pixels={max_pixels}") from fault
    except Exception as fault:  # on damaged bytes Pillow's parsers raise whatever they stumble over
        reason = "is truncated" if "truncated" in str(fault) else "cannot be decoded"
        raise BadSampleError(f"its image {reason}") from fault
    return MediaInfo(width, height, 1, codec)


def _lies_on_its_side(image: Image.Image, content: bytes) -> bool:
    """Return whether DALI will swap width and height; damaged EXIF turns nothing."""
    if image.format == "TIFF":
        return False  # Pillow has turned its size already
    if image.format == "PNG" and b"eXIf" not in content:
        return False  # Pillow would decode the whole image to look for it
    try:
        return image.getexif().get(_ORIENTATION) in _TURNED
    except Exception:  # as above
        return False


def _complete(codec: str, content: bytes) -> bool:
    """Return whether the bytes end as a whole image of this format ends."""
    if codec == "TIFF":
        return False  # DALI makes rubbish of damaged ones without a word, so they are decoded twice
    if codec == "WEBP":
        return len(content) >= int.from_bytes(content[4:8], "little") + 8
    if codec == "BMP":
        return len(content) >= int.from_bytes(content[2:6], "little")
    return _ENDS[codec] in content[-_TAIL:]


def even_chunks(content: bytes) -> bytes:
    """Return a WebP with EXIF as DALI can read it, anything else as it is.

    DALI 2.4 looks for EXIF without skipping the padding byte behind a chunk of odd length, loses its way and fails.
    Here the padding is made part of the chunk, which decoders ignore.
    """
    if content[8:16] != b"WEBPVP8X" or not content[_WEBP_FLAGS] & _WEBP_HAS_EXIF:
        return content
    whole, at = bytearray(content), 12
    while at + 8 <= len(whole):
        size = int.from_bytes(whole[at + 4 : at + 8], "little")
        end = at + 8 + size + size % 2
        if end <= len(whole):
            whole[at + 4 : at + 8] = (size + size % 2).to_bytes(4, "little")
        at = end
    return bytes(whole)
