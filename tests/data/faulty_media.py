"""Images and videos of every kind of fault, or of a kind that few programs write: the bytes of `faults.py`."""

import io
import struct
import zlib
from typing import Any

import av
import numpy as np
from PIL import Image, ImageCms

from .synthetic import REPEATABLE, picture


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
