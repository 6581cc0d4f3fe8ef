"""Small shards with pictures and clips that tests draw themselves."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

Members = dict[str, bytes]


def picture(seed: int, format: str = "PNG", size: tuple[int, int] = (40, 30)) -> bytes:
    """A smooth picture; (width, height) in pixels."""
    coarse = np.random.default_rng(seed).integers(0, 255, (4, 5, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(buffer, format)
    return buffer.getvalue()


def clip(frames: int, codec: str = "libvpx-vp9", container: str = "webm", side: int = 32) -> bytes:
    """A clip whose frame k is uniformly grey at 20·k."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream: Any = output.add_stream(codec, rate=10)
        stream.width = stream.height = side
        stream.pix_fmt = "yuv420p"
        for k in range(frames):
            pixels = np.full((side, side, 3), 20 * k, np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        output.mux(stream.encode())
    return buffer.getvalue()


def caption(text: str) -> bytes:
    return json.dumps({"caption": text}).encode()


def image_members(keys: list[str]) -> Members:
    members: Members = {}
    for seed, key in enumerate(keys):
        members[f"{key}.png"] = picture(seed)
        members[f"{key}.json"] = caption(f"a small picture of thing number {key}")
    return members


def write_tar(path: Path, members: Members) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path
