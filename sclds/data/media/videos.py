"""Videos: when each frame is shown, which are taken, FFmpeg's frames of codecs that DALI decodes on GPUs only.

A frame is known by its presentation time, never by counting what a decoder puts out: frames have their own durations,
are stored in another order than they are shown in, and may stand before the first key frame, where nothing can decode
them. The frames of a video are those from its first key frame on, numbered in the order in which they are shown.
"""

import io
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from sclds.data.media.media_info import MAX_PIXELS, MediaInfo
from sclds.data.media.video_faults import check_claim, check_keyframe, check_size, video_stream
from sclds.data.storage.shards import BadSampleError

_UNREADABLE = "its video cannot be opened or is truncated"
_VP8_SHOWN = 0x10  # of a packet's first byte; a packet without it only feeds later frames


@dataclass(frozen=True)
class _Track:
    """The video packets from the first key frame on, as stored, and the times of the frames that they show.

    Args:
        packets: In the order in which they are decoded.
        shown: Presentation times in the stream's unit, ascending, without repeats.
        regular: As in `MediaInfo`.
    """

    packets: list[Any]
    shown: list[int]
    regular: bool


def inspect_video(content: bytes, max_pixels: int = MAX_PIXELS) -> MediaInfo:
    """Read the headers of all packets of a video, without decoding.

    Args:
        content: The encoded video.
        max_pixels: Most pixels of a frame; by default that of `data.max_pixels`.

    Raises:
        BadSampleError: The video cannot be opened, is too large, or has no frame that can be decoded.
    """
    try:
        with av.open(io.BytesIO(content), mode="r") as container:
            stream = video_stream(container)
            context = stream.codec_context
            check_size("video", context.width, context.height, max_pixels)
            check_claim(content, context)
            track = _read(container, stream)
            width, height, codec = context.width, context.height, context.name
            times = _seconds(track, stream.time_base)
    except (FFmpegError, ValueError) as fault:
        raise BadSampleError(_UNREADABLE) from fault
    if not width or not height:
        raise BadSampleError("its video has no frames")
    return MediaInfo(width, height, len(track.shown), codec, times, track.regular)


def _read(container: Any, stream: Any) -> _Track:
    """Read all packets.

    Raises:
        BadSampleError: None can be decoded, or they do not say when they are shown.
    """
    stored = [packet for packet in container.demux(stream) if packet.size]
    for packet in stored:
        check_keyframe(packet)
    if not stored:
        raise BadSampleError("its video has no frames")
    first = next((i for i, packet in enumerate(stored) if packet.is_keyframe), None)
    if first is None:
        raise BadSampleError("its video has no key frame to decode from")
    packets = stored[first:]
    if any(packet.pts is None for packet in packets):
        raise BadSampleError("its video does not say when its frames are shown")
    visible = [p for p in packets if p.pts >= packets[0].pts and not p.is_discard and not _hidden(p, stream)]
    shown = sorted({packet.pts for packet in visible})
    if not shown:
        raise BadSampleError("its video has no frames")
    return _Track(packets, shown, len(shown) == len(stored))


def _hidden(packet: Any, stream: Any) -> bool:
    return stream.codec_context.name in ("vp8", "libvpx") and not bytes(packet)[0] & _VP8_SHOWN


def _seconds(track: _Track, unit: Fraction) -> tuple[float, ...]:
    """Return `MediaInfo.times`; where the file does not say how long the last frame is shown, as long as most are."""
    gaps = np.diff(track.shown).tolist()
    last = next((p.duration for p in track.packets if p.pts == track.shown[-1] and p.duration), None)
    end = track.shown[-1] + (last or (statistics.median_low(gaps) if gaps else 1))
    return tuple(float((time - track.shown[0]) * unit) for time in (*track.shown, end))


def choose_frames(times: Sequence[float], frames: int, rng: np.random.Generator | None) -> NDArray[np.int32]:
    """Choose the frames shown at one moment of each of `frames` equally long segments of a video.

    Args:
        times: (n + 1,) seconds at which each of the n frames appears, and at which the last one ends.
        frames: F, frames wanted; a frame that is shown through several moments is taken as often.
        rng: Generator keyed to this sample; None takes the middle of each segment.

    Returns:
        (F,) frame numbers, ascending.
    """
    inside = np.full(frames, 0.5) if rng is None else rng.random(frames)
    moments = times[0] + (np.arange(frames) + inside) * ((times[-1] - times[0]) / frames)
    return (np.searchsorted(times[1:-1], moments, side="right")).astype(np.int32)


def read_frames(content: bytes, numbers: Sequence[int]) -> NDArray[np.uint8]:
    """Decode chosen frames of a video with FFmpeg, from the nearest key frame before each.

    Packets are fed from memory rather than sought in the container, whose own seeking is exact in some formats only.

    Args:
        content: The encoded video.
        numbers: (F,) of frames, as `inspect_video` counts them, in any order.

    Returns:
        (F, height, width, 3) RGB.

    Raises:
        BadSampleError: One of the frames cannot be decoded.
    """
    try:
        with av.open(io.BytesIO(content), mode="r") as container:
            stream = video_stream(container)
            track = _read(container, stream)
            wanted = sorted({track.shown[number] for number in numbers})
            context = stream.codec_context
            context.thread_count = 1
            size = {"width": context.width, "height": context.height}
            found = {
                frame.pts: np.asarray(frame.to_ndarray(format="rgb24", **size), np.uint8)
                for first, end, times in _stretches(track, wanted)
                for frame in _decode(context, track.packets[first:end], times)
            }
    except (FFmpegError, ValueError) as fault:
        raise BadSampleError("its video cannot be decoded") from fault
    missing = [time for time in wanted if time not in found]
    if missing:
        second = float((missing[0] - track.shown[0]) * stream.time_base)
        raise BadSampleError(f"its video's frame at {second:.2f} s cannot be decoded")
    return np.stack([found[track.shown[number]] for number in numbers])


def _stretches(track: _Track, wanted: Iterable[int]) -> Iterator[tuple[int, int, set[int]]]:
    """Yield the ranges of packets to decode, from a key frame to the last one needed, with the times wanted of each.

    A frame is decoded from the last key frame that is shown no later; so one that is stored after a key frame but
    shown before it comes from the key frame before.
    """
    keys = [i for i, packet in enumerate(track.packets) if packet.is_keyframe]
    times = [track.packets[i].pts for i in keys]
    place = {packet.pts: i for i, packet in enumerate(track.packets)}
    found: dict[int, list[int]] = {}
    for time in wanted:
        found.setdefault(max(i for i, t in zip(keys, times, strict=True) if t <= time), []).append(time)
    for first, members in found.items():
        yield first, max(place[time] for time in members) + 1, set(members)


def _decode(context: Any, packets: Iterable[Any], wanted: set[int]) -> Iterator[Any]:
    """Yield the wanted frames of one stretch of packets; others are passed over where nothing refers to them."""
    context.flush_buffers()
    for packet in packets:
        context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
        yield from (frame for frame in context.decode(packet) if frame.pts in wanted)
    yield from (frame for frame in context.decode(None) if frame.pts in wanted)
