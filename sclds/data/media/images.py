"""Images: judged by their headers, and decoded by Pillow, whose pixels are the definition of what an image shows."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sclds.data.media.media_info import MAX_PIXELS, MediaInfo
from sclds.data.media.orientation import size_upright, turn_of
from sclds.data.media.routing import dali_decodes
from sclds.data.media.video_faults import check_size
from sclds.data.storage.shards import BadSampleError

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
"""What is decoded, by Pillow's names; its JPEG opens MPO too. Not JPEG 2000: damaged files of it crash decoders."""
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBX", "RGBA", "CMYK", "YCbCr")
_DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
"""Grey of 16 bits, of which the upper 8 are taken; Pillow's own conversion would cut values off at 255."""
_TAIL = 64
_ENDS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"heif", b"mif1", b"msf1")
_STRANGERS = (
    ("JPEG XL", b"\xff\x0a"),
    ("JPEG XL", b"\0\0\0\x0cJXL \r\n"),
    ("JPEG XR", b"II\xbc"),
    ("SVG", b"<svg"),
    ("PDF", b"%PDF"),
    ("WebM or Matroska", b"\x1a\x45\xdf\xa3"),
)
"""Formats that Pillow does not know, by their first bytes."""


def inspect_image(content: bytes, max_pixels: int = MAX_PIXELS) -> MediaInfo:
    """Read the headers of an image.

    Args:
        content: The encoded image.
        max_pixels: Most pixels; by default that of `data.max_pixels`.

    Raises:
        BadSampleError: It is truncated, too large, or of a format that is not decoded.
    """
    try:
        with opened(content) as image:
            codec = image.format or "unknown"
            if image.mode not in _MODES + _DEEP_MODES:
                raise BadSampleError(f"its image is a {codec} with pixels of mode {image.mode}, which is not decoded")
            check_size("image", *image.size, max_pixels)
            if not _complete(codec, content):
                image.load()  # the end is not where it should be: trailing bytes are harmless, missing ones raise here
            turn = turn_of(image, content)
            width, height = size_upright(image.size, turn)
            plain = turn is None and dali_decodes(image, content)
    except BadSampleError:
        raise
    except Image.UnidentifiedImageError as fault:
        stranger = _known_to_pillow(content) or _stranger(content)
        raise BadSampleError(_not_decoded(stranger) if stranger else "its image cannot be decoded") from fault
    except Image.DecompressionBombError as fault:
        raise BadSampleError(f"its image has more pixels than data.max_pixels={max_pixels}") from fault
    except Exception as fault:  # on damaged bytes Pillow's parsers raise whatever they stumble over
        reason = "is truncated" if "truncated" in str(fault) else "cannot be decoded"
        raise BadSampleError(f"its image {reason}") from fault
    return MediaInfo(width, height, 1, codec, plain=plain)


def opened(content: bytes) -> Image.Image:
    """Open an image of a format that is decoded: Pillow would ask forty others too, by bytes that they may not check.

    Raises:
        UnidentifiedImageError: It is none; damaged bytes may raise other errors too.
    """
    return Image.open(io.BytesIO(content), formats=_FORMATS)


def upright_image(content: bytes) -> Image.Image:
    """Decode an image that `inspect_image` accepts.

    Returns:
        It in its own mode, upright; grey of 16 bits as grey of 8.

    Raises:
        BadSampleError: It cannot be decoded.
    """
    try:
        with opened(content) as image:
            image.load()
            turn = turn_of(image, content)
            upright = image if turn is None else image.transpose(turn)
            if image.mode in _DEEP_MODES:
                return Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            return upright
    except Exception as fault:  # as above
        raise BadSampleError("its image cannot be decoded") from fault


def read_image(content: bytes) -> NDArray[np.uint8]:
    """Decode an image as `upright_image`.

    Returns:
        (height, width, 3) RGB; transparency is dropped, so that the colors below it show.

    Raises:
        BadSampleError: It cannot be decoded.
    """
    return np.array(upright_image(content).convert("RGB"), np.uint8)


def _known_to_pillow(content: bytes) -> str | None:
    """Return the name of a format that Pillow knows and we do not decode."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.format
    except Exception:  # as in `inspect_image`
        return None


def _not_decoded(codec: str) -> str:
    return f"its image is {codec}; JPEG, PNG, WebP, BMP and TIFF are decoded"


def _stranger(content: bytes) -> str | None:
    """Return the name of a format that Pillow does not know, None for rubbish."""
    if content[4:8] == b"ftyp":
        brands = {content[8:12], *(content[at : at + 4] for at in range(16, int.from_bytes(content[:4], "big"), 4))}
        return "HEIF" if brands & {*_HEIF_BRANDS} else "MP4"
    if content.startswith(b"<?xml") and b"<svg" in content:
        return "SVG"
    return next((name for name, start in _STRANGERS if content.startswith(start)), None)


def _complete(codec: str, content: bytes) -> bool:
    """Return whether the bytes end as a whole image of this format ends."""
    if codec == "TIFF":
        return False  # nothing marks its end
    if codec == "WEBP":
        return len(content) >= int.from_bytes(content[4:8], "little") + 8
    if codec == "BMP":
        return len(content) >= int.from_bytes(content[2:6], "little")
    return _ENDS[codec] in content[-_TAIL:]
