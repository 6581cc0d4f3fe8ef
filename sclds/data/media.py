"""What an encoded picture or clip is, judged cheaply before DALI sees it: one bad sample would fail its whole batch."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray
from PIL import Image

from sclds.data.shards import BadSampleError, Kind

_TAIL = 64
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # EXIF: the picture lies on its side


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """Size in pixels as shown, frames (1 for a picture) and the codec's or format's name."""

    width: int
    height: int
    frames: int
    codec: str


def inspect(kind: Kind, content: bytes) -> MediaInfo:
    """Read the headers of a picture, or of all packets of a clip, without decoding.

    Raises:
        BadSampleError: The content is truncated, has no frame, or is not of this kind.
    """
    return _inspect_image(content) if kind == "image" else _inspect_clip(content)


def _inspect_image(content: bytes) -> MediaInfo:
    try:
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
            codec = image.format or "unknown"
            if codec == "JPEG" and image.getexif().get(_ORIENTATION) in _TURNED:  # Pillow decodes a PNG to tell
                width, height = height, width
            if not _complete(codec, content):
                image.load()  # the end is not where it should be: trailing bytes are harmless, missing ones raise here
    except Image.DecompressionBombError as fault:
        raise BadSampleError("its picture is too large to be one") from fault
    except (OSError, ValueError, SyntaxError) as fault:
        reason = "is truncated" if "truncated" in str(fault) else "cannot be decoded"
        raise BadSampleError(f"its picture {reason}") from fault
    return MediaInfo(width, height, 1, codec)


def _complete(codec: str, content: bytes) -> bool:
    """Return whether the bytes end as a whole picture of this format ends."""
    if codec == "WEBP":
        return len(content) >= int.from_bytes(content[4:8], "little") + 8
    return _ENDS.get(codec, b"") in content[-_TAIL:]


def _inspect_clip(content: bytes) -> MediaInfo:
    try:
        with av.open(io.BytesIO(content), mode="r") as container:
            if not container.streams.video:
                raise BadSampleError("its clip has no video stream")
            stream = container.streams.video[0]
            context = stream.codec_context
            frames = sum(1 for packet in container.demux(stream) if packet.size)
            info = MediaInfo(context.width, context.height, frames, context.name)
    except (FFmpegError, ValueError) as fault:
        raise BadSampleError("its clip cannot be opened or is truncated") from fault
    if not info.frames or not info.width or not info.height:
        raise BadSampleError("its clip has no frames")
    return info


def choose_frames(available: int, frames: int, rng: np.random.Generator | None) -> NDArray[np.int32]:
    """Choose one frame of each of `frames` equal segments of a clip.

    Args:
        available: Frames of the clip, at least 1; a clip shorter than `frames` gives some of them twice.
        frames: F, frames wanted.
        rng: Generator keyed to this sample; None takes the middle of each segment.

    Returns:
        (F,) frame numbers, ascending.
    """
    inside = np.full(frames, 0.5) if rng is None else rng.random(frames)
    return ((np.arange(frames) + inside) * available / frames).astype(np.int32)


def read_frames(content: bytes, numbers: Sequence[int]) -> NDArray[np.uint8]:
    """Decode chosen frames of a clip with FFmpeg, for codecs that DALI decodes only on a GPU.

    Returns:
        (F, height, width, 3) RGB; frames that are missing at the end repeat the last one.

    Raises:
        BadSampleError: Nothing can be decoded.
    """
    wanted, last = set(numbers), max(numbers)
    found: dict[int, NDArray[np.uint8]] = {}
    newest = None
    try:
        with av.open(io.BytesIO(content), mode="r") as container:
            stream = container.streams.video[0]
            stream.thread_count = 1
            for number, frame in enumerate(container.decode(stream)):
                newest = frame
                if number in wanted:
                    found[number] = _rgb(frame)
                if number >= last:
                    break
    except (FFmpegError, ValueError) as fault:
        raise BadSampleError("its clip cannot be decoded") from fault
    if newest is None:
        raise BadSampleError("its clip has no frames")
    tail = _rgb(newest)
    return np.stack([found.get(int(number), tail) for number in numbers])


def _rgb(frame: av.VideoFrame) -> NDArray[np.uint8]:
    return np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
