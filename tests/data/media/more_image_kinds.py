"""WebP, BMP and TIFF of every kind, and `KINDS`: all kinds of all formats by name."""

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from .image_kinds import GREY, HIGH, JPEGS, PNGS, RGB, WIDE, deep, exif, grey, layered, photo, saved, xmp

Maker = Callable[[], bytes]


# WebP


def webp(image: Image.Image | None = None, **options: Any) -> bytes:
    return saved(image or photo(), "WEBP", **({"quality": 95} | options))


def small_first_frame() -> bytes:
    """A moving WebP whose first frame covers a part of the canvas."""
    whole = bytearray(webp(save_all=True, append_images=[photo().rotate(180)], duration=100))
    at = whole.index(b"ANMF")
    for place, side in ((20 + 4, WIDE + 20), (20 + 7, HIGH + 10)):  # VP8X: the canvas
        whole[place : place + 3] = (side - 1).to_bytes(3, "little")
    whole[at + 8 : at + 11] = (4).to_bytes(3, "little")  # ANMF: its left side, in pairs of pixels
    return bytes(whole)


WEBPS: dict[str, Maker] = {
    "lossy": webp,
    "lossless": lambda: webp(lossless=True),
    "lossy with alpha": lambda: webp(layered()),
    "lossless with alpha": lambda: webp(layered(), lossless=True, exact=True),
    "moving": lambda: webp(save_all=True, append_images=[photo().rotate(180)], duration=100),
    "moving with alpha": lambda: webp(layered(), save_all=True, append_images=[layered().rotate(180)], lossless=True),
    "moving, first frame smaller": small_first_frame,
    "EXIF LONG": lambda: webp(exif=exif(6, 4, ">")),
    "EXIF of odd length": lambda: webp(exif=exif(6) + b"\0"),
    "EXIF without a header": lambda: webp(exif=exif(8, header=b"")),
    "EXIF that turns nothing": lambda: webp(exif=exif(1), lossless=True),
    "EXIF cut short": lambda: webp(exif=exif(6)[:-9]),
    "XMP": lambda: webp(xmp=xmp(6)),
    "XMP element": lambda: webp(xmp=xmp(3, element=True), lossless=True),
}


# BMP


def bmp(pixels: bytes, bits: int, masks: tuple[int, ...] = (), palette: bytes = b"", packing: int = 0, **how: Any):
    """A BMP of stored rows.

    Args:
        pixels: The rows as stored.
        bits: Of a pixel.
        masks: Red, green, blue and perhaps alpha.
        palette: Its table.
        packing: 0 none, 1 RLE8, 2 RLE4, 3 masks.
        how: `header` is the size of the header (40: masks follow it), `down` stores the topmost row first.
    """
    size, down = how.get("header", 40), how.get("down", False)
    high = 2**32 - HIGH if down else HIGH
    used = len(palette) // 4 if size > 12 else 0
    head = struct.pack("<IIIHHIIIIII", size, WIDE, high, 1, bits, packing, len(pixels), 2835, 2835, used, 0)
    if size == 12:
        head = struct.pack("<IHHHH", 12, WIDE, HIGH, 1, bits)
    head += struct.pack(f"<{len(masks)}I", *masks)
    head = head.ljust(size, b"\0") + palette
    start = 14 + len(head)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + head + pixels


def rows(values: np.ndarray, down: bool = False) -> bytes:
    """Rows (height, bytes) filled to four bytes, the lowest first unless `down`."""
    values = np.ascontiguousarray(values).reshape(HIGH, -1).view(np.uint8).reshape(HIGH, -1)
    filled = np.pad(values, ((0, 0), (0, -values.shape[1] % 4)))
    return (filled if down else filled[::-1]).tobytes()


def masked(masks: tuple[int, ...], bits: int = 32) -> bytes:
    """Rows of pixels whose channels lie under masks."""
    found = np.zeros((HIGH, WIDE), np.uint32)
    for channel, mask in enumerate(masks):
        low = (mask & -mask).bit_length() - 1
        depth = (mask >> low).bit_length()
        plane = RGB[..., channel].astype(np.uint32) if channel < 3 else np.full((HIGH, WIDE), 200, np.uint32)
        found |= (plane >> (8 - depth)) << low
    return rows(found.astype("<u4" if bits == 32 else "<u2"))


def few_bits(depth: int) -> bytes:
    bits = np.unpackbits(grey(depth).reshape(HIGH, WIDE, 1), axis=2)[..., 8 - depth :].reshape(HIGH, -1)
    return rows(np.packbits(bits, axis=1))


def palette(count: int, entry: int = 4) -> bytes:
    return np.random.default_rng(2).integers(0, 256, (count, entry), dtype=np.uint8).tobytes()


def run_lengths(nibbles: bool) -> bytes:
    """RLE8 or RLE4: runs, a literal stretch and ends of lines."""
    found = b""
    for row in (GREY if not nibbles else GREY >> 4)[::-1]:
        first = [int(value) for value in row]
        for at in range(0, 40, 2):
            found += bytes([2, first[at] if not nibbles else first[at] << 4 | first[at + 1]])
        rest = first[40:]
        if nibbles:
            pairs = bytes(a << 4 | b for a, b in zip(rest[::2], [*rest[1::2], 0], strict=False))
            found += bytes([0, len(rest)]) + pairs + bytes(len(pairs) % 2)
        else:
            found += bytes([0, len(rest), *rest]) + bytes(len(rest) % 2)
        found += b"\0\0"
    return found + b"\0\1"


BGRA = np.dstack((RGB[..., ::-1], np.full((HIGH, WIDE), 77, np.uint8)))
BMPS: dict[str, Maker] = {
    "24 bits": lambda: bmp(rows(RGB[..., ::-1]), 24),
    "24 bits, topmost row first": lambda: bmp(rows(RGB[..., ::-1], down=True), 24, down=True),
    "24 bits, oldest header": lambda: bmp(rows(RGB[..., ::-1]), 24, header=12),
    "32 bits": lambda: bmp(rows(BGRA), 32),
    "32 bits, masks BGRX": lambda: bmp(masked(BGRX), 32, BGRX, packing=3),
    "32 bits, masks XBGR": lambda: bmp(masked(XBGR), 32, XBGR, packing=3),
    "32 bits, masks RGBA": lambda: bmp(masked(RGBA), 32, RGBA, packing=3, header=108),
    "32 bits, masks ABGR": lambda: bmp(masked(ABGR), 32, ABGR, packing=3, header=108),
    "32 bits, masks BGRA": lambda: bmp(masked(BGRA_MASKS), 32, BGRA_MASKS, packing=3, header=124),
    "16 bits, 555": lambda: bmp(masked((0x7C00, 0x3E0, 0x1F), 16), 16),
    "16 bits, masks 555": lambda: bmp(masked((0x7C00, 0x3E0, 0x1F), 16), 16, (0x7C00, 0x3E0, 0x1F), packing=3),
    "16 bits, masks 565": lambda: bmp(masked((0xF800, 0x7E0, 0x1F), 16), 16, (0xF800, 0x7E0, 0x1F), packing=3),
    "8 bits": lambda: bmp(rows(GREY), 8, palette=palette(256)),
    "8 bits grey": lambda: bmp(rows(GREY), 8, palette=np.arange(256, dtype="<u4").__mul__(0x10101).tobytes()),
    "4 bits": lambda: bmp(few_bits(4), 4, palette=palette(16)),
    "1 bit": lambda: bmp(few_bits(1), 1, palette=palette(2)),
    "RLE8": lambda: bmp(run_lengths(False), 8, palette=palette(256), packing=1),
    "RLE4": lambda: bmp(run_lengths(True), 4, palette=palette(16), packing=2),
}
BGRX, XBGR = (0xFF0000, 0xFF00, 0xFF), (0xFF000000, 0xFF0000, 0xFF00)
RGBA = (0xFF, 0xFF00, 0xFF0000, 0xFF000000)
ABGR = (0xFF000000, 0xFF0000, 0xFF00, 0xFF)
BGRA_MASKS = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)


def strange_masks() -> bytes:
    """Red first and no alpha."""
    return bmp(masked(BGRX), 32, RGBA[:3], packing=3)


# TIFF


def tiff(values: np.ndarray, photometric: int, depth: int, order: str = "<", **tags: int) -> bytes:
    """An unpacked TIFF of one strip: Pillow writes neither 16-bit colors, planes nor the other byte order.

    Args:
        values: (height, width[, channels]) samples; with `planes=2`, (channels, height, width).
        photometric: 0 white is zero, 1 black is zero, 2 RGB.
        depth: Bits of a sample.
        order: `<` or `>`.
        tags: `planes`, and `orientation`.
    """
    planes = tags.get("planes", 1)
    count = 1 if values.ndim == 2 else values.shape[0 if planes == 2 else 2]
    wide, high = (WIDE, HIGH)
    if depth == 16:
        data = values.astype(order + "u2").tobytes()
    elif depth == 1:
        data = np.packbits(values.astype(bool), axis=1).tobytes()
    else:
        data = values.astype(np.uint8).tobytes()
    strips = count if planes == 2 else 1
    each = len(data) // strips
    fields = {
        256: (3, [wide]), 257: (3, [high]), 258: (3, [depth] * count), 259: (3, [1]), 262: (3, [photometric]),
        273: (4, []), 274: (3, [tags.get("orientation", 1)]), 277: (3, [count]), 278: (3, [high]),
        279: (4, [each] * strips), 284: (3, [planes]),
    }  # fmt: skip
    directory = 8
    at = directory + 2 + 12 * len(fields) + 4
    sizes = {tag: {3: 2, 4: 4}[kind] * (strips if tag == 273 else len(found)) for tag, (kind, found) in fields.items()}
    start = at + sum(size for size in sizes.values() if size > 4)
    fields[273] = (4, [start + k * each for k in range(strips)])
    entries, far = b"", b""
    for tag, (kind, found) in fields.items():
        content = struct.pack(f"{order}{len(found)}{'H' if kind == 3 else 'I'}", *found)
        if len(content) > 4:
            place, far = struct.pack(order + "I", at + len(far)), far + content
        else:
            place = content.ljust(4, b"\0")
        entries += struct.pack(order + "HHI", tag, kind, len(found)) + place
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, directory)
    return head + struct.pack(order + "H", len(fields)) + entries + bytes(4) + far + data


PACKINGS = ("tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "packbits", "jpeg")
TIFFS: dict[str, Maker] = {
    "RGB": lambda: saved(photo(), "TIFF"),
    **{f"RGB, {packing}": (lambda p=packing: saved(photo(), "TIFF", compression=p)) for packing in PACKINGS},
    "RGB, big endian": lambda: tiff(RGB, 2, 8, ">"),
    "RGB, in planes": lambda: tiff(RGB.transpose(2, 0, 1), 2, 8, planes=2),
    "RGB of 16 bits": lambda: tiff(deep("RGB"), 2, 16),
    "RGB of 16 bits, big endian": lambda: tiff(deep("RGB"), 2, 16, ">"),
    "RGBA": lambda: saved(layered(), "TIFF"),
    "CMYK": lambda: saved(photo("CMYK"), "TIFF"),
    "YCbCr": lambda: saved(photo("YCbCr"), "TIFF"),
    "grey": lambda: saved(photo("L"), "TIFF"),
    "grey with alpha": lambda: saved(layered().convert("LA"), "TIFF"),
    "grey, white is zero": lambda: tiff(GREY, 0, 8),
    "grey of 16 bits": lambda: tiff(deep("L"), 1, 16),
    "grey of 16 bits, big endian": lambda: tiff(deep("L"), 1, 16, ">"),
    "palette": lambda: saved(photo().quantize(60), "TIFF"),
    "1 bit": lambda: saved(photo("1"), "TIFF"),
    "1 bit, white is zero": lambda: tiff(GREY > 127, 0, 1),
    "1 bit, group 4": lambda: saved(photo("1"), "TIFF", compression="group4"),
    "two images": lambda: saved(photo(), "TIFF", save_all=True, append_images=[photo().rotate(180)]),
    **{f"turned {k}": (lambda k=k: tiff(RGB, 2, 8, orientation=k)) for k in range(2, 9)},
}


def turned(format: str, **options: Any) -> dict[str, Maker]:
    def make(orientation: int) -> bytes:
        found = Image.Exif()
        found[0x0112] = orientation
        return saved(photo(), format, exif=found, **options)

    return {f"turned {k}": (lambda k=k: make(k)) for k in range(1, 9)}


KINDS: dict[str, Maker] = {
    f"{format}: {name}": make
    for format, kinds in (
        ("JPEG", JPEGS | turned("JPEG", quality=95)),
        ("PNG", PNGS | turned("PNG")),
        ("WebP", WEBPS | turned("WEBP", lossless=True)),
        ("BMP", BMPS),
        ("TIFF", TIFFS),
    )
    for name, make in kinds.items()
}

FTYP = b"\0\0\0\x18ftyp"
STRANGERS = {
    "HEIF": FTYP + b"heic\0\0\0\0mif1heic" + bytes(99),
    "JPEG XL": b"\xff\x0a" + bytes(99),
    "JPEG XR": b"II\xbc\1" + bytes(99),
    "SVG": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>',
    "PDF": b"%PDF-1.7" + bytes(99),
    "MP4": FTYP + b"isom\0\0\0\0mp41isom" + bytes(99),
    "WebM or Matroska": b"\x1a\x45\xdf\xa3" + bytes(99),
}
"""What Pillow does not know, by the names that are given to it."""
