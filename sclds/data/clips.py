"""Clips: what their packets say, which frames are taken, and the frames of codecs that DALI decodes on a GPU only."""

import io
from collections.abc import Sequence

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from sclds.data.clip_faults import check_claim, check_keyframe, check_size, video_stream
from sclds.data.media_info import MediaInfo
from sclds.data.shards import BadSampleError


def inspect_clip(content: bytes, max_pixels: int) -> MediaInfo:
    """Read the headers of all packets of a clip, without decoding.

    Raises:
        BadSampleError: The clip cannot be opened, is too large, or has no frame.
    """
    try:
        with av.open(io.BytesIO(content), mode="r") as container:
            stream = video_stream(container)
            context = stream.codec_context
            check_size("clip", context.width, context.height, max_pixels)
            check_claim(content, context)
            frames = 0
            for packet in container.demux(stream):
                check_keyframe(packet)
                frames += packet.size > 0
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
            stream = video_stream(container)
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
    if any(pixels.shape != tail.shape for pixels in found.values()):
        raise BadSampleError("its clip changes size between frames")
    return np.stack([found.get(int(number), tail) for number in numbers])


def _rgb(frame: av.VideoFrame) -> NDArray[np.uint8]:
    return np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
