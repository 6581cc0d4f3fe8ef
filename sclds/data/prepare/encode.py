"""Images and videos as small files with the same bytes on every run, and tar shards of them.

Every parameter that decides a byte stands here; the versions of Pillow and PyAV that bring the codecs are recorded in
the manifest of what was built.
"""

import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import av
from PIL import Image

from sclds.run.files import replacing

SIDE = 72
"""Width and height of every image and video in pixels: a 64-pixel model crops and shifts inside it."""
VIDEO_FRAMES = 8
"""Frames of a video, evenly over the animation; the model takes four of them."""
CLIP_RATE = 8
"""Frames per second written into a video; a label only, the animation's own speed is not kept."""
_WEBP = {"quality": 65, "method": 6}
_VP9: dict[str, object] = {
    "crf": "32",
    "b": "0",
    "deadline": "good",
    "cpu-used": "1",
    "threads": "1",
    "row-mt": "0",
    "auto-alt-ref": "0",  # without hidden frames every packet is an image, which is what decoders on CPU count
    "lag-in-frames": "0",
    "flags": "+bitexact",
}
_BLOCK = 512


def on_white(image: Image.Image) -> Image.Image:
    """Return the image as RGB, SIDE x SIDE, its aspect kept, centred on white.

    Args:
        image: Any mode; transparency becomes white.
    """
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    flat = Image.alpha_composite(white, rgba).convert("RGB")
    scale = SIDE / max(flat.size)
    size = (max(1, round(flat.width * scale)), max(1, round(flat.height * scale)))
    small = flat.resize(size, Image.Resampling.LANCZOS)
    canvas = Image.new("RGB", (SIDE, SIDE), (255, 255, 255))
    canvas.paste(small, ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    return canvas


def encode_image(image: Image.Image) -> bytes:
    """Return the image on white as lossy WebP (about 0.7 KB)."""
    out = io.BytesIO()
    on_white(image).save(out, "WEBP", **_WEBP)
    return out.getvalue()


def animation_frames(animation: Image.Image) -> list[Image.Image]:
    """Return VIDEO_FRAMES frames, evenly over an animated image, on white."""
    count = getattr(animation, "n_frames", 1)
    frames = []
    for i in range(VIDEO_FRAMES):
        animation.seek(i * count // VIDEO_FRAMES)
        frames.append(on_white(animation))
    return frames


def encode_video(frames: Sequence[Image.Image]) -> bytes:
    """Return the frames (RGB, SIDE x SIDE) as VP9 in WebM, which DALI decodes without a GPU."""
    out = io.BytesIO()
    # bitexact: otherwise the muxer writes a random segment id and its own version
    with av.open(out, "w", format="webm", container_options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libvpx-vp9", rate=CLIP_RATE)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        stream.options = _VP9
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())
    return out.getvalue()


def sample_json(fields: dict[str, Any]) -> bytes:
    """Return the fields as one line of UTF-8 JSON, keys sorted."""
    return json.dumps(fields, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def write_shard(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Write a USTAR file whose bytes depend on nothing but the members.

    Owner, group, time and mode are fixed; two zero blocks end it, without the usual padding to ten kilobytes.

    Args:
        path: The shard; appears only when complete.
        members: (name, content) in the order in which they are to lie; taken one at a time.
    """
    with replacing(path) as out:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.mode = 0o644
            out.write(info.tobuf(tarfile.USTAR_FORMAT))
            out.write(content + b"\0" * (-len(content) % _BLOCK))
        out.write(b"\0" * (2 * _BLOCK))
