"""The page shows images as training sees them."""

import base64
import io

from PIL import Image

from sclds.report.thumbnails import SIDE, _data_uri

from ..data.media.image_kinds import HIGH, WIDE
from ..data.media.more_image_kinds import KINDS


def shown(name: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(_data_uri("image", KINDS[name]()).split(",", 1)[1])))


def test_a_turned_image_stands_upright():
    assert WIDE < SIDE
    for name in ("JPEG: turned 6", "JPEG: XMP attribute", "TIFF: turned 6", "PNG: EXIF in a text"):
        assert shown(name).size == (HIGH, WIDE), name
    assert shown("JPEG: turned 1").size == (WIDE, HIGH)


def test_sixteen_bits_are_not_white():
    deep, plain = (
        shown(f"PNG: {name}").convert("L").resize((1, 1)).getpixel((0, 0)) for name in ("grey of 16 bits", "grey")
    )
    assert abs(deep - plain) <= 3
