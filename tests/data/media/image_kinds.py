"""One image in every way of storing it that is met in the field: `KINDS` by name, made here from pixels and bytes."""

import base64
import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from ..synthetic import picture

WIDE, HIGH = 51, 36

# libjpeg-turbo's `cjpeg -arithmetic` of a 32 × 24 gradient; Pillow cannot write it
ARITHMETIC_JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAA0JCgsKCA0LCgsODg0PEyAVExISEyccHhcgLikxMC4pLSwzOko+MzZGNywtQFdBRkxOUlNSMj5aYVpQYEpR"
    "Uk//2wBDAQ4ODhMREyYVFSZPNS01T09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT0//yQARCAAYACADASIAAhEB"
    "AxEB/8wACgAQEAUBEBEF/9oADAMBAAIRAxEAPwDQyDzMP9yyDSpeqo69XNJnZ9pq+qfsmqL0meqL6KTVTZZ4VP8Ayzv0JO2+HToBHdDi4RfOJVOnu6L3"
    "EJgm0P/Z"
)


def photo(mode: str = "RGB", size: tuple[int, int] = (WIDE, HIGH)) -> Image.Image:
    return Image.open(io.BytesIO(picture(6, size=size))).convert(mode)


def layered() -> Image.Image:
    image = photo()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


# EXIF and XMP


def exif(value: int, type: int = 3, order: str = "<", header: bytes = b"Exif\0\0", before: int = 0) -> bytes:
    """An EXIF block with an orientation of any type, in any byte order, behind `before` other entries."""
    form = {1: "B", 3: "H", 4: "I", 8: "h", 9: "i"}[type]
    entries = [struct.pack(order + "HHII", 0x0100 + k, 4, 1, 7) for k in range(before)]
    field = struct.pack(order + form, value).ljust(4, b"\0")
    entries.append(struct.pack(order + "HHI", 0x0112, type, 1) + field)
    start = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    return header + start + struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4)


def xmp(value: int, element: bool = False) -> bytes:
    said = f"<tiff:Orientation>{value}</tiff:Orientation>" if element else ""
    attribute = "" if element else f' tiff:Orientation="{value}"'
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/"{attribute}>{said}</rdf:Description>'
        "</rdf:RDF></x:xmpmeta>"
    ).encode()


# JPEG


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def app1(*contents: bytes) -> bytes:
    return b"".join(segment(0xE1, content) for content in contents)


def jpeg(extra: bytes = b"", jfif: bool = True, image: Image.Image | None = None, **options: Any) -> bytes:
    """A JPEG with segments put in behind SOI and JFIF."""
    whole = saved(image or photo(), "JPEG", **({"quality": 95} | options))
    at = 4 + int.from_bytes(whole[4:6], "big") if whole[2:4] == b"\xff\xe0" else 2
    return whole[: at if jfif else 2] + extra + whole[at:]


def adobe(transform: int) -> bytes:
    return segment(0xEE, b"Adobe" + struct.pack(">HHHB", 100, 0, 0, transform))


def four_inks(transform: int | None) -> bytes:
    """A CMYK JPEG; the transform of its Adobe marker says CMYK (0) or YCCK (2), None leaves the marker out."""
    whole = saved(photo("CMYK"), "JPEG", quality=95)
    at = whole.index(b"\xff\xee\x00\x0e")
    return whole[:at] + (b"" if transform is None else adobe(transform)) + whole[at + 16 :]


JPEGS: dict[str, Callable[[], bytes]] = {
    "4:2:0": lambda: jpeg(subsampling="4:2:0"),
    "4:2:2": lambda: jpeg(subsampling="4:2:2"),
    "4:4:4": lambda: jpeg(subsampling="4:4:4"),
    "progressive": lambda: jpeg(progressive=True),
    "progressive grey": lambda: jpeg(progressive=True, image=photo("L")),
    "restart markers": lambda: jpeg(restart_marker_blocks=2),
    "grey": lambda: jpeg(image=photo("L")),
    "no JFIF": lambda: jpeg(jfif=False),
    "Adobe YCbCr": lambda: jpeg(adobe(1)),
    "Adobe YCbCr, no JFIF": lambda: jpeg(adobe(1), jfif=False),
    "Adobe RGB, no JFIF": lambda: jpeg(adobe(0), jfif=False),
    "Adobe RGB against JFIF": lambda: jpeg(adobe(0)),
    "RGB kept": lambda: jpeg(keep_rgb=True),
    "CMYK of Adobe": lambda: four_inks(0),
    "YCCK of Adobe": lambda: four_inks(2),
    "CMYK without a marker": lambda: four_inks(None),
    "comment, profile and thumbnail segments": lambda: jpeg(
        segment(0xFE, b"words") + segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(200)) + segment(0xED, b"Photoshop 3.0\0")
    ),
    "arithmetic": lambda: ARITHMETIC_JPEG,
    "filled between segments": lambda: jpeg(b"\xff\xff" + segment(0xFE, b"words")[1:] + b"\xff"),
    "two images": lambda: saved(photo(), "MPO", save_all=True, append_images=[photo().rotate(180)]),
    "EXIF LONG": lambda: jpeg(app1(exif(6, 4))),
    "EXIF LONG, big endian": lambda: jpeg(app1(exif(6, 4, ">"))),
    "EXIF BYTE": lambda: jpeg(app1(exif(8, 1, ">"))),
    "EXIF signed": lambda: jpeg(app1(exif(5, 9))),
    "EXIF big endian": lambda: jpeg(app1(exif(7, 3, ">"))),
    "EXIF of no orientation": lambda: jpeg(app1(exif(0))),
    "EXIF orientation 9": lambda: jpeg(app1(exif(9))),
    "EXIF behind 40 entries": lambda: jpeg(app1(exif(6, before=40))),
    "EXIF without JFIF": lambda: jpeg(app1(exif(6)), jfif=False),
    "EXIF cut short": lambda: jpeg(app1(exif(6)[:-9])),
    "EXIF empty": lambda: jpeg(app1(b"Exif\0\0")),
    "EXIF that lies about its entries": lambda: jpeg(app1(exif(6).replace(b"\1\0\x12\1", b"\xff\xff\x12\1"))),
    "EXIF in the second segment": lambda: jpeg(app1(xmp_packet(1), exif(6))),
    "EXIF in two segments that disagree": lambda: jpeg(app1(exif(6), exif(3))),
    "EXIF in two segments, turned by the second": lambda: jpeg(app1(exif(1), exif(6))),
    "EXIF split over two segments": lambda: jpeg(app1(exif(6, before=4)[:40], b"Exif\0\0" + exif(6, before=4)[40:])),
    "XMP attribute": lambda: jpeg(app1(xmp_packet(6))),
    "XMP element": lambda: jpeg(app1(xmp_packet(8, element=True))),
    "XMP against EXIF": lambda: jpeg(app1(exif(1), xmp_packet(6))),
    "XMP with EXIF of no orientation": lambda: jpeg(app1(b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0", xmp_packet(3))),
}


def xmp_packet(value: int, element: bool = False) -> bytes:
    return b"http://ns.adobe.com/xap/1.0/\0" + xmp(value, element)


# PNG


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def text(key: bytes, words: bytes, packed: bool = False) -> bytes:
    return chunk(b"zTXt" if packed else b"tEXt", key + b"\0" + (b"\0" + zlib.compress(words) if packed else words))


def raw_profile(block: bytes) -> bytes:
    """EXIF as ImageMagick writes it into texts."""
    digits = block.hex().encode()
    return b"\nexif\n%8d\n" % len(block) + b"\n".join(digits[k : k + 72] for k in range(0, len(digits), 72)) + b"\n"


def international(words: bytes) -> bytes:
    return chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + words)


def png(
    pixels: np.ndarray, color: int, depth: int = 8, before: bytes = b"", after: bytes = b"", interlaced: bool = False
) -> bytes:
    """A PNG of samples (height, width[, channels]) of `depth` bits, with chunks before and after its data."""
    height, width = pixels.shape[:2]
    passes = (
        [(0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1)]
        if interlaced
        else [(0, 1, 0, 1)]
    )
    rows = b"".join(
        b"\0" + packed(row, depth) for top, down, left, right in passes for row in pixels[top::down, left::right]
    )
    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + before
        + chunk(b"IDAT", zlib.compress(rows))
        + after
        + chunk(b"IEND", b"")
    )


def packed(row: np.ndarray, depth: int) -> bytes:
    if depth == 16:
        return row.astype(">u2").tobytes()
    bits = np.unpackbits(row.astype(np.uint8).reshape(-1, 1), axis=1)[:, 8 - depth :]
    return np.packbits(bits).tobytes()


def deep(mode: str) -> np.ndarray:
    """16 bits a channel, whose lower bits are not the upper ones again."""
    pixels = np.asarray(layered().convert(mode)).astype(np.uint16)
    return pixels * 256 + (pixels * 7) % 256


def grey(depth: int) -> np.ndarray:
    return np.asarray(photo("L")) >> (8 - depth)


def colors(count: int, alpha: bytes = b"") -> bytes:
    table = np.random.default_rng(1).integers(0, 256, (count, 3), dtype=np.uint8)
    return chunk(b"PLTE", table.tobytes()) + (chunk(b"tRNS", alpha) if alpha else b"")


def moving(**options: Any) -> bytes:
    others = [photo().rotate(90), photo().rotate(180)]
    return saved(photo(), "PNG", save_all=True, append_images=others, duration=100, **options)


RGB, GREY, ALPHA = np.asarray(photo()), np.asarray(photo("L")), np.asarray(layered())
PNGS: dict[str, Callable[[], bytes]] = {
    "RGB": lambda: png(RGB, 2),
    "RGB interlaced": lambda: png(RGB, 2, interlaced=True),
    "RGB with a transparent color": lambda: png(RGB, 2, before=chunk(b"tRNS", bytes(6))),
    "RGB of 16 bits": lambda: png(deep("RGB"), 2, 16),
    "RGB of 16 bits, interlaced": lambda: png(deep("RGB"), 2, 16, interlaced=True),
    "RGB with gamma": lambda: png(RGB, 2, before=chunk(b"gAMA", struct.pack(">I", 100_000))),
    "RGB with significant bits": lambda: png(RGB, 2, before=chunk(b"sBIT", b"\5\6\5")),
    "RGB with a background": lambda: png(RGB, 2, before=chunk(b"bKGD", bytes(6))),
    "RGBA": lambda: png(ALPHA, 6),
    "RGBA with a background": lambda: png(ALPHA, 6, before=chunk(b"bKGD", bytes(6))),
    "RGBA of 16 bits": lambda: png(deep("RGBA"), 6, 16),
    "grey of 1 bit": lambda: png(grey(1), 0, 1),
    "grey of 2 bits": lambda: png(grey(2), 0, 2),
    "grey of 4 bits": lambda: png(grey(4), 0, 4),
    "grey": lambda: png(GREY, 0),
    "grey interlaced": lambda: png(GREY, 0, interlaced=True),
    "grey with a transparent level": lambda: png(GREY, 0, before=chunk(b"tRNS", b"\0\x80")),
    "grey of 16 bits": lambda: png(deep("L"), 0, 16),
    "grey of 16 bits with a transparent level": lambda: png(deep("L"), 0, 16, before=chunk(b"tRNS", b"\0\x80")),
    "grey with alpha": lambda: png(np.asarray(layered().convert("LA")), 4),
    "grey with alpha of 16 bits": lambda: png(deep("LA"), 4, 16),
    "palette of 1 bit": lambda: png(grey(1), 3, 1, colors(2)),
    "palette of 2 bits": lambda: png(grey(2), 3, 2, colors(4)),
    "palette of 4 bits": lambda: png(grey(4), 3, 4, colors(16)),
    "palette": lambda: png(GREY, 3, 8, colors(256)),
    "palette with alpha": lambda: png(GREY, 3, 8, colors(256, bytes(range(200)))),
    "palette with one transparent color": lambda: png(GREY, 3, 8, colors(256, b"\xff" * 99 + b"\0")),
    "palette that is too short": lambda: png(GREY % 200, 3, 8, colors(210)),
    "eXIf LONG": lambda: png(RGB, 2, before=chunk(b"eXIf", exif(6, 4, ">", b""))),
    "eXIf behind the data": lambda: png(RGB, 2, after=chunk(b"eXIf", exif(8, header=b""))),
    "eXIf with a header": lambda: png(RGB, 2, before=chunk(b"eXIf", exif(6))),
    "EXIF in a text": lambda: png(RGB, 2, before=text(b"Raw profile type exif", raw_profile(exif(6)))),
    "EXIF in a packed text": lambda: png(RGB, 2, before=text(b"Raw profile type exif", raw_profile(exif(5)), True)),
    "EXIF in a text behind the data": lambda: png(RGB, 2, after=text(b"Raw profile type exif", raw_profile(exif(6)))),
    "APP1 in a text": lambda: png(RGB, 2, before=text(b"Raw profile type APP1", raw_profile(exif(6)))),
    "damaged EXIF in a text": lambda: png(RGB, 2, before=text(b"Raw profile type exif", b"\nexif\n 9\nzz\n")),
    "XMP": lambda: png(RGB, 2, before=international(xmp(6))),
    "XMP behind the data": lambda: png(RGB, 2, after=international(xmp(7, element=True))),
    "moving": moving,
    "moving, with another default image": lambda: moving(default_image=True),
}
