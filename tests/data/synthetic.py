"""Small shards with images and videos that tests draw themselves."""

import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Members = dict[str, bytes]
REPEATABLE = {"fflags": "+bitexact"}
"""Options of a container that leave out time and random numbers."""


def picture(seed: int, format: str = "PNG", size: tuple[int, int] = (40, 30)) -> bytes:
    """A smooth picture; (width, height) in pixels."""
    coarse = np.random.default_rng(seed).integers(0, 255, (4, 5, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(buffer, format)
    return buffer.getvalue()


@contextmanager
def encoding(buffer: io.BytesIO, container: str) -> Iterator[Any]:
    """A container to encode into, under whose encoders this thread is scheduled as before.

    Where it may, SVT-AV1 gives the thread that calls it SCHED_FIFO with the highest priority, which every process that
    the thread starts inherits: on two cores nothing else runs any more.
    """
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        with av.open(buffer, "w", format=container, options=REPEATABLE) as output:
            yield output
    finally:
        os.sched_setscheduler(0, policy, parameters)


def clip(frames: int, codec: str = "libvpx-vp9", container: str = "webm", side: int = 32) -> bytes:
    """A clip whose frame k is uniformly grey at 20·k."""
    buffer = io.BytesIO()
    with encoding(buffer, container) as output:
        stream: Any = output.add_stream(codec, rate=10)
        stream.width = stream.height = side
        stream.pix_fmt = "yuv420p"
        for k in range(frames):
            pixels = np.full((side, side, 3), 20 * k, np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        output.mux(stream.encode())
    return buffer.getvalue()


WIDE, HIGH = 96, 64


def numbered(number: int) -> NDArray[np.uint8]:
    """A frame that shows its number, below 256, as eight bars: bit k is bar k from the left, 1 is light."""
    bars = [20 + 215 * (number >> k & 1) for k in range(8)]
    return np.broadcast_to(np.repeat(np.array(bars, np.uint8), WIDE // 8)[None, :, None], (HIGH, WIDE, 3)).copy()


def number_of(frame: NDArray[Any]) -> int:
    """Read the number that a frame shows, at any size."""
    bar = frame.shape[1] // 8
    return sum((frame[:, k * bar + 1 : (k + 1) * bar - 1].mean() > 128) << k for k in range(8))


def timed_clip(
    milliseconds: Sequence[int], codec: str, container: str, options: dict[str, str] | None = None, drop: int = 0
) -> bytes:
    """A clip whose frame k shows k and appears at `milliseconds[k]`; the first `drop` packets are left out."""
    buffer = io.BytesIO()
    with encoding(buffer, container) as output:
        stream: Any = output.add_stream(codec, rate=30, options=options or {})
        stream.width, stream.height, stream.pix_fmt = WIDE, HIGH, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        packets = []
        for number, moment in enumerate(milliseconds):
            frame = av.VideoFrame.from_ndarray(numbered(number), format="rgb24")
            frame.pts, frame.time_base = moment, Fraction(1, 1000)
            packets += stream.encode(frame)
        for packet in [*packets, *stream.encode()][drop:]:
            output.mux(packet)
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
