"""Every fault of docs/faults.md as samples: a name is a row of its table, a variant the members of one sample."""

import io
import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from .faulty_media import (
    bomb,
    deep_png,
    flipped,
    flipped_that_decode,
    hollow,
    joined,
    jpeg,
    lab,
    longer,
    patched,
    photo,
    saved,
    see_through,
    sound,
    thin,
    turned,
)
from .media import image_kinds, more_image_kinds, video_kinds
from .media.image_kinds import ARITHMETIC_JPEG
from .synthetic import caption, clip, picture

Sample = list[tuple[str, bytes | None]]
"""Members in the order of the shard: what follows the key in the name, and the content; None is a symbolic link."""


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
