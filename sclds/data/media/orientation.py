"""How an encoded image has to be turned to stand upright: decided here alone, as Pillow's `exif_transpose` decides it.

Orientation is written in many places (EXIF of any type and byte order, texts of a PNG, XMP), and each decoder knows
other ones. So no decoder turns anything by itself, but TIFF's in Pillow, which turns while it loads.
"""

from PIL import Image, PngImagePlugin

Turn = Image.Transpose
_ORIENTATION = 0x0112
_TURNS = {
    2: Turn.FLIP_LEFT_RIGHT,
    3: Turn.ROTATE_180,
    4: Turn.FLIP_TOP_BOTTOM,
    5: Turn.TRANSPOSE,
    6: Turn.ROTATE_270,
    7: Turn.TRANSVERSE,
    8: Turn.ROTATE_90,
}
_ON_THEIR_SIDE = (Turn.TRANSPOSE, Turn.ROTATE_270, Turn.TRANSVERSE, Turn.ROTATE_90)
_SOURCES = frozenset({"exif", "xmp", "Raw profile type exif", "XML:com.adobe.xmp"})
"""Names under which Pillow keeps what may say an orientation."""
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_KEYS = (b"Raw profile type exif", b"XML:com.adobe.xmp")
"""Of a PNG's texts: those in which Pillow looks for an orientation."""


def turn_of(image: Image.Image, content: bytes) -> Turn | None:
    """Return what turns an image upright, None for one that stands so or says so in a way that nobody can read.

    Args:
        image: The image as opened; it is loaded where its orientation cannot be known before.
        content: Its bytes.

    Raises:
        OSError: It had to be loaded, and its pixels are damaged; damaged bytes may raise other errors too.
    """
    if image.format == "TIFF" or (image.format == "PNG" and _speaks_late(content)):
        image.load()
    if image.format != "TIFF" and image.info.keys().isdisjoint(_SOURCES):
        return None
    try:
        # a PNG's own `getexif` would decode it whole to look for what `_speaks_late` knows not to be there
        exif = Image.Image.getexif(image) if isinstance(image, PngImagePlugin.PngImageFile) else image.getexif()
        return _TURNS.get(exif.get(_ORIENTATION, 1))
    except Exception:  # on damaged bytes Pillow's parsers raise whatever they stumble over
        return None


def size_upright(size: tuple[int, int], turn: Turn | None) -> tuple[int, int]:
    """Return (width, height) after a turn."""
    return (size[1], size[0]) if turn in _ON_THEIR_SIDE else size


def _speaks_late(content: bytes) -> bool:
    """Return whether a PNG may say its orientation behind its pixels, where Pillow looks when it loads them."""
    at, behind = 8, False
    while at + 8 <= len(content):
        kind, start = content[at + 4 : at + 8], at + 8
        if behind and (kind == b"eXIf" or (kind in _TEXTS and content[start : start + 32].startswith(_KEYS))):
            return True
        behind = behind or kind == b"IDAT"
        at = start + int.from_bytes(content[at : at + 4], "big") + 4
    return False
