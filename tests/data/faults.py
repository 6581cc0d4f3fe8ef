"""Every fault of docs/faults.md as samples: a name is a row of its table, a variant the members of one sample."""

import io
import json
import re
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageCms

from .media import image_kinds, more_image_kinds, video_kinds
from .media.image_kinds import ARITHMETIC_JPEG
from .synthetic import REPEATABLE, caption, clip, picture

Sample = list[tuple[str, bytes | None]]
"""Members in the order of the shard: what follows the key in the name, and the content; None is a symbolic link."""


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def photo(mode: str = "RGB", size: tuple[int, int] = (48, 36)) -> Image.Image:
    return Image.open(io.BytesIO(picture(7, "PNG", size))).convert(mode)


def see_through() -> Image.Image:
    image = photo()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def deep_png(pixels: np.ndarray, color: int) -> bytes:
    """A PNG of 16 bits a channel, each the 8 bits twice; Pillow writes only grey ones."""
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + (row.astype(">u2") * 257).tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0)
    parts = png_chunk(b"IHDR", head) + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def bomb(side: int = 20_000) -> bytes:
    """A white PNG of 1 bit a pixel: 50 kB that decode to more than a gigabyte."""
    packer, row = zlib.compressobj(9), b"\0" + b"\xff" * (side // 8)
    rows = b"".join(packer.compress(row * 100) for _ in range(side // 100)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", head) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")


def flipped(content: bytes, *places: int) -> bytes:
    damaged = bytearray(content)
    for place in places:
        damaged[place] ^= 0x10
    return bytes(damaged)


def flipped_that_decode() -> list[bytes]:
    """A JPEG, a WebP and a BMP in which bits of the pixels, not of headers, are flipped."""
    jpeg, webp, bmp = (picture(7, format, (120, 90)) for format in ("JPEG", "WEBP", "BMP"))
    return [flipped(jpeg, len(jpeg) // 2, len(jpeg) // 2 + 9), flipped(webp, len(webp) - 3), flipped(bmp, 999, 3000)]


def lab() -> Image.Image:
    return ImageCms.profileToProfile(
        photo(), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )


def turned(format: str, **options: Any) -> list[bytes]:
    """The eight orientations of a picture that is not square."""
    found = []
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        found.append(saved(photo(size=(47, 36)), format, exif=exif, **options))
    return found


def jpeg(**options: Any) -> bytes:
    return saved(photo(), "JPEG", quality=95, **options)


def sound(cover: bool) -> bytes:
    """Half a second of silence, with or without a cover picture."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        stream: Any = output.add_stream("aac", rate=16_000, layout="mono")
        art: Any = output.add_stream("mjpeg", rate=1) if cover else None
        if cover:
            art.width = art.height = 16
            art.pix_fmt = "yuvj420p"
            art.disposition = av.stream.Disposition.attached_pic
            frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
            packets = [*art.encode(frame), *art.encode()]
        for _ in range(8):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            silence.sample_rate = 16_000
            output.mux(stream.encode(silence))
        output.mux(stream.encode())
        if cover:
            output.mux(packets)
    return buffer.getvalue()


def hollow(container: str) -> bytes:
    """A clip that was begun and never got a frame."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container, options=REPEATABLE) as output:
        stream: Any = output.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        output.start_encoding()
    return buffer.getvalue()


def joined(*clips: bytes) -> bytes:
    """The packets of clips one after the other, under the header of the first."""
    buffer = io.BytesIO()
    with av.open(io.BytesIO(clips[0])) as first, av.open(buffer, "w", format="webm", options=REPEATABLE) as output:
        stream = output.add_stream_from_template(first.streams.video[0])
        time = 0
        for content in clips:
            with av.open(io.BytesIO(content)) as source:
                for packet in source.demux(video=0):
                    if packet.size:
                        copy = av.Packet(bytes(packet))
                        copy.stream, copy.time_base, copy.is_keyframe = stream, packet.time_base, packet.is_keyframe
                        copy.pts = copy.dts = time
                        time += 100
                        output.mux(copy)
    return buffer.getvalue()


def patched(content: bytes, old: bytes, new: bytes) -> bytes:
    assert content.count(old) >= 1
    assert len(old) == len(new)
    return content.replace(old, new, 1)


def longer(content: bytes) -> bytes:
    """A WebM whose header claims a hundred times its duration, as EBML's element 0x4489 of 8 bytes."""
    at = content.index(b"\x44\x89\x88") + 3
    (duration,) = struct.unpack(">d", content[at : at + 8])
    return content[:at] + struct.pack(">d", 100 * duration) + content[at + 8 :]


def thin(codec: str, height: int) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="webm", options=REPEATABLE) as output:
        stream: Any = output.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 1, height, "yuv420p"
        for _ in range(4):
            frame = av.VideoFrame.from_ndarray(np.full((height, 1, 3), 90, np.uint8), format="rgb24")
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return buffer.getvalue()


def pictures(*contents: bytes, extension: str = "jpg") -> list[Sample]:
    return [[(f".{extension}", content), (".json", caption("a small picture"))] for content in contents]


def clips(*contents: bytes) -> list[Sample]:
    return [[(".mp4", content), (".json", caption("a short clip"))] for content in contents]


def texts(*contents: str | bytes) -> list[Sample]:
    """Captions as `.txt` and, where they are text, as `.json` too."""
    found: list[Sample] = []
    for content in contents:
        if isinstance(content, str):
            found.append([(".png", picture(1)), (".json", caption(content))])
        raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        if not isinstance(content, str) or not any("\ud800" <= character <= "\udfff" for character in content):
            found.append([(".png", picture(1)), (".txt", raw)])
    return found


def records(*contents: bytes) -> list[Sample]:
    return [[(".png", picture(1)), (".json", content)] for content in contents]


def members(*samples: Sample) -> list[Sample]:
    return list(samples)


WORDS = caption("a small picture")
PICTURES: dict[str, Callable[[], list[Sample]]] = {
    "cut short: JPEG, PNG, WebP, BMP, TIFF": lambda: pictures(
        *(
            whole[: int(len(whole) * share)]
            for format in ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
            for whole in [picture(2, format, (120, 90))]
            for share in (0.02, 0.5, 0.95)
        )
    ),
    "bits flipped so that it still decodes": lambda: pictures(*flipped_that_decode()),
    "bits flipped in the data of a PNG": lambda: pictures(
        *(flipped(picture(2, "PNG", (120, 90)), place) for place in (300, 700, 1500))
    ),
    "zero bytes": lambda: pictures(b""),
    "text, noise or a web page instead of an image": lambda: pictures(
        b"404", b"<html><body>not found</body></html>" * 9, np.random.default_rng(0).bytes(5000), bytes(5000)
    ),
    "GIF, AVIF or JPEG 2000, whatever its name": lambda: pictures(
        saved(photo(), "GIF"),
        saved(photo(), "GIF", save_all=True, append_images=[photo().rotate(90)]),
        saved(photo(), "AVIF"),
        saved(photo(), "JPEG2000"),
        saved(photo(), "JPEG2000", no_jp2=True),
    ),
    "HEIF, JPEG XL, JPEG XR, SVG, PDF, MP4 or WebM, whatever its name": lambda: pictures(
        *more_image_kinds.STRANGERS.values()
    ),
    "wrong extension on a format that is decoded": lambda: [
        *pictures(*(picture(3, format) for format in ("PNG", "WEBP", "BMP", "TIFF"))),
        *pictures(picture(3, "JPEG"), extension="webp"),
    ],
    "progressive, arithmetic-coded, grey and CMYK JPEG": lambda: pictures(
        jpeg(progressive=True),
        ARITHMETIC_JPEG,
        saved(photo("L"), "JPEG"),
        saved(photo("CMYK"), "JPEG"),
        jpeg(keep_rgb=True),
        *(jpeg(subsampling=kind) for kind in ("4:4:4", "4:2:2", "4:1:1")),
    ),
    "16 bits a channel": lambda: pictures(
        deep_png(np.asarray(photo("L")), 0),
        deep_png(np.asarray(photo()), 2),
        deep_png(np.asarray(see_through()), 6),
        saved(Image.fromarray(np.asarray(photo("L")).astype(np.uint16) * 257), "TIFF"),
    ),
    "palette, 1 bit, grey": lambda: pictures(
        saved(photo().quantize(64), "PNG"),
        saved(photo().quantize(16), "PNG", bits=4),
        saved(photo("1"), "PNG"),
        saved(photo("L"), "PNG"),
        saved(photo().quantize(64), "BMP"),
        saved(photo("1"), "BMP"),
        saved(photo().quantize(64), "TIFF"),
    ),
    "alpha channel or transparent color": lambda: pictures(
        saved(see_through(), "PNG"),
        saved(see_through().convert("LA"), "PNG"),
        saved(photo().quantize(64), "PNG", transparency=3),
        saved(photo().quantize(64), "PNG", transparency=bytes(range(64))),
        saved(see_through(), "WEBP", lossless=True, exact=True),
        saved(see_through(), "TIFF"),
    ),
    "animated WebP, several images in one JPEG or TIFF": lambda: pictures(
        *(
            saved(photo(), format, save_all=True, append_images=[photo().rotate(180)])
            for format in ("WEBP", "MPO", "TIFF")
        )
    ),
    "EXIF that turns or mirrors": lambda: pictures(
        *turned("JPEG"), *turned("PNG"), *turned("WEBP"), *turned("WEBP", lossless=True), *turned("TIFF")
    ),
    "orientation in XMP, in a PNG's texts, in EXIF of any type and byte order": lambda: pictures(
        *(make() for name, make in more_image_kinds.KINDS.items() if "EXIF" in name or "eXIf" in name or "XMP" in name)
    ),
    "CMYK and YCCK JPEG, with or without Adobe's marker": lambda: pictures(
        *(image_kinds.four_inks(transform) for transform in (0, 2, None))
    ),
    "BMP of 1 to 32 bits, with masks, RLE4, RLE8": lambda: pictures(
        *(make() for make in more_image_kinds.BMPS.values())
    ),
    "BMP with masks that Pillow does not know": lambda: pictures(more_image_kinds.strange_masks()),
    "TIFF of 1 to 16 bits, CMYK, YCbCr, in planes, of either byte order": lambda: pictures(
        *(make() for make in more_image_kinds.TIFFS.values())
    ),
    "TIFF of Lab or floating-point pixels": lambda: pictures(saved(lab(), "TIFF"), saved(photo("F"), "TIFF")),
    "20,000 × 20,000 pixels": lambda: pictures(bomb()),
    "1 × 1 and 1 × 5000 pixels": lambda: pictures(
        *(picture(4, format, size) for size in ((1, 1), (1, 5000), (5000, 1)) for format in ("PNG", "JPEG", "WEBP"))
    ),
    "bytes behind the end": lambda: pictures(*(picture(2, f) + bytes(500) for f in ("JPEG", "PNG", "WEBP", "BMP"))),
}
CLIPS: dict[str, Callable[[], list[Sample]]] = {
    "zero bytes": lambda: clips(b""),
    "headers without a frame": lambda: clips(hollow("avi"), hollow("matroska")),
    "sound only, with or without a cover image": lambda: clips(sound(False), sound(True)),
    "first bytes flipped": lambda: clips(
        *(flipped(clip(4, *form), 0, 1, 2, 3) for form in [(), ("libvpx",), ("mpeg4", "mp4"), ("mpeg4", "avi")])
    ),
    "tail missing, and the index of an MP4 with it": lambda: clips(
        clip(12, "mpeg4", "mp4")[:-200], clip(12, "libvpx-vp9", "mp4")[:600], clip(12, "mpeg4", "mp4")[:900]
    ),
    "tail of a WebM missing": lambda: clips(
        *(clip(12)[: int(len(clip(12)) * share)] for share in (0.6, 0.7, 0.8, 0.9))
    ),
    "header claims another duration": lambda: clips(longer(clip(12))),
    "header claims another size than its frames have": lambda: clips(
        patched(clip(12), b"\xb0\x81\x20", b"\xb0\x81\x7f"),
        patched(clip(12), b"\xba\x81\x20", b"\xba\x81\x10"),
        patched(clip(12, "libvpx"), b"\xb0\x81\x20", b"\xb0\x81\x7f"),
    ),
    "frames change size midway": lambda: clips(
        joined(clip(4), clip(4, side=48)), joined(clip(4, "libvpx"), clip(4, "libvpx", side=48))
    ),
    "two frames in a packet and none in the next, as MPEG-4 is packed in AVI": lambda: clips(video_kinds.packed()),
    "key frames that are not marked, or others that are": lambda: clips(
        *(video_kinds.made(video_kinds.KINDS["H.264 in matroska"], key) for key in (lambda k: True, lambda k: False))
    ),
    "frames that an edit list hides, negative times": lambda: clips(
        video_kinds.made(video_kinds.KINDS["H.264, negative times"])
    ),
    "several video streams": lambda: clips(video_kinds.together([video_kinds.KINDS["H.264 in matroska"]] * 2, 1)),
    "rotation or mirror in the container": lambda: clips(*(video_kinds.made(kind) for kind in video_kinds.turned())),
    "frames of more than `data.max_pixels`": lambda: clips(clip(1, "libvpx", side=1100)),
    "unknown codec": lambda: clips(patched(clip(4), b"V_VP9", b"V_XYZ")),
    "1 × 1 and 1 × 300 pixels": lambda: clips(thin("libvpx-vp9", 1), thin("libvpx-vp9", 300)),
}
CAPTIONS: dict[str, Callable[[], list[Sample]]] = {
    "empty, white space, or marks that show nothing": lambda: texts(
        "", " \n\t ", "\u200f\u200b\u2060", "\0\0", "\ufeff"
    ),
    "10,000 characters, a million, one word of 10,000": lambda: texts("words " * 1700, "ab " * 333_333, "x" * 10_000),
    "any script: Arabic, CJK, emoji, combining and right-to-left marks": lambda: texts(
        "قطة صغيرة على كرسي",
        "椅子の上の小さな猫",
        "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽",
        "e\u0301a\u0308" + "o" + "\u0301" * 300,
        "\u202eright to left\u202c \u200fmark",
        "हिन्दी ไทย 한국어 ქართული",
        "\U0010ffff\ue000",
    ),
    "NUL and other control characters": lambda: texts("a\0small\x1b[31m picture\x07", "\0a\x85b"),
    "half a surrogate pair": lambda: records(rb'{"caption": "half \ud83d a pair"}', rb'{"caption": "\udc00"}'),
    "byte order mark": lambda: texts(b"\xef\xbb\xbfwords") + records(b"\xef\xbb\xbf" + WORDS),
    "HTML entities": lambda: texts("salt &amp; pepper", "&lt;&#39;&gt;"),
    "invalid UTF-8": lambda: texts(b"\xff\xfe\xfa", b"caf\xe9", b"\xed\xa0\x80") + records(b'{"caption": "caf\xe9"}'),
    "broken JSON, nested too deep, a number too long": lambda: records(
        b"", b"{", b"[" * 200_000, b'{"caption": ' + b"1" * 9000 + b"}"
    ),
    'JSON without text under "caption"': lambda: records(
        *(json.dumps(found).encode() for found in ({}, [1], "words", 7, None, {"caption": 7}, {"captions": []})),
        b'{"caption": null}',
    ),
    "null, empty, no text or marks that show nothing among several": lambda: records(
        *(json.dumps({"captions": ["words", odd, "more"]}).encode() for odd in (None, "", 7, ["a"], " \u200b\u2060"))
    ),
    'nothing under "captions" beside a "caption"; a list under "caption"': lambda: records(
        *(json.dumps({"captions": odd, "caption": "words"}).encode() for odd in ([], None, "", [""], {}, 7)),
        b'{"caption": ["words", null]}',
    ),
    "`.txt` without a caption that can be used beside a `.json` with one": lambda: [
        [(".png", picture(1)), (".txt", odd), (".json", WORDS)] for odd in (b"", b" \n", b"\xff", "\u200b".encode())
    ],
    "`.json` that is broken beside a `.txt` with a caption": lambda: [
        [(".png", picture(1)), (".json", odd), (".txt", b"words")] for odd in (b"", b"{", b"\xff", b"null")
    ],
}
MEMBERS: dict[str, Callable[[], list[Sample]]] = {
    "absolute or `../` name, name that is no UTF-8": lambda: [
        [(f"{prefix}{{key}}.png", picture(1)), (f"{prefix}{{key}}.json", WORDS)]
        for prefix in ("/etc/", "../../", "./a/../../", "caf\udce9")
    ],
    "link instead of a file": lambda: members([(".png", None), (".json", WORDS)]),
    "caption without image": lambda: members([(".json", WORDS)], [(".txt", b"words")]),
    "image without caption": lambda: members([(".png", picture(1))], [(".png", picture(1)), (".xml", b"<a/>")]),
    "two images or captions of one key": lambda: members(
        [(".png", picture(1)), (".json", WORDS), (".png", b""), (".json", b"{")],
        [(".png", picture(1)), (".jpg", b""), (".json", WORDS)],
    ),
    "`./` before some of the names": lambda: members(
        [("./{key}.png", picture(1)), ("{key}.json", WORDS)], [("{key}.png", picture(1)), (".//./{key}.txt", b"words")]
    ),
    "name with several dots": lambda: members(
        [(".png", picture(1)), (".json", WORDS), ("{key}.1.png", picture(1)), ("{key}.1.json", WORDS)]
    ),
    "hidden file, extension that no sample has": lambda: members(
        [(".png", picture(1)), (".json", WORDS), ("._{key}.png", b"finder"), (".gif", b""), ("{key}", b"")]
    ),
    "one key at two places of a shard": lambda: members(
        [
            *[("twice.png", picture(1)), ("twice.json", WORDS)],
            *[("between.png", picture(2)), ("between.json", WORDS)],
            *[("twice.png", picture(3)), ("twice.json", WORDS)],
        ]
    ),
}
TABLES = {"image": PICTURES, "video": CLIPS, "caption": CAPTIONS, "member of a shard": MEMBERS}


def write_shard(path: Path, samples: dict[str, Sample]) -> Path:
    """Write samples by key; a name that does not begin with a dot stands for itself, with `{key}` filled in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", errors="surrogateescape") as tar:
        for key, sample in samples.items():
            for name, content in sample:
                info = tarfile.TarInfo(key + name if re.fullmatch(r"\.\w+", name) else name.format(key=key))
                if content is None:
                    info.type, info.linkname = tarfile.SYMTYPE, "/etc/hostname"
                else:
                    info.size = len(content)
                tar.addfile(info, None if content is None else io.BytesIO(content))
    return path
