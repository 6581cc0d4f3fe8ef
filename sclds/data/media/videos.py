"""Videos: when each frame is shown, which are taken, and the pixels of those, as FFmpeg decodes and shows them.

A frame is known by what the decoder puts out, never by what packets claim, unless they can be believed (`packets.py`).
The frames of a video are those from its first key frame on, in the order in which they are shown.
"""

import statistics
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from sclds.data.media.media_info import MAX_PIXELS, MediaInfo
from sclds.data.media.packets import Track, believed, decode_stretch, stored_packets
from sclds.data.media.shown import Look, look_of, rgb_of
from sclds.data.media.video_faults import check_claim, check_frame, check_size, open_video, video_stream
from sclds.data.storage.shards import BadSampleError

_UNREADABLE = "its video cannot be opened or is truncated"
_NVDEC_CODECS = frozenset({"vp8", "vp9", "h264", "hevc", "av1"})


@dataclass(frozen=True)
class _Video:
    """A video that was opened, as far as its first frame.

    Args:
        context: The decoder.
        packets: All of them, as stored.
        track: What packets say; None where they cannot be believed.
        look: How its first frame is shown.
        unmarked: Its decoder marks no frames as key frames.
    """

    context: Any
    packets: list[Any]
    track: Track | None
    look: Look
    unmarked: bool = False

    def frames(self, damage_ends: bool = False) -> Iterator[Any]:
        """Decode all packets and yield the frames from the first key frame on, in the order of being shown."""
        return _frames(self.context, self.packets, self.unmarked, damage_ends)


def inspect_video(content: bytes, max_pixels: int = MAX_PIXELS) -> MediaInfo:
    """Find out when the frames of a video are shown: by its packets where they can be believed, else by decoding it.

    Args:
        content: The encoded video.
        max_pixels: Most pixels of a frame; by default that of `data.max_pixels`.

    Raises:
        BadSampleError: The video cannot be opened, is too large, or has no frame that can be decoded.
    """
    try:
        with open_video(content) as container:
            stream = video_stream(container)
            context = stream.codec_context
            context.thread_count = 1
            check_size("video", context.width, context.height, max_pixels)
            check_claim(content, container, stream)
            video = _opened(container, stream)
            moments, end = _times_of_packets(video.track) if video.track else _times_of_frames(video)
            name, unit = context.name, stream.time_base
            # of several streams NVDEC's reader takes one by a rule of its own
            nvdec = context.codec.canonical_name in _NVDEC_CODECS and len(container.streams.video) == 1
    except (FFmpegError, ValueError) as fault:
        raise BadSampleError(_UNREADABLE) from fault
    times = tuple((time - moments[0]) * unit.numerator / unit.denominator for time in (*moments, end))
    plain = video.track is not None and nvdec and video.look.plain
    return MediaInfo(*video.look.size, len(moments), name, times, plain)


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
    """Decode chosen frames of a video with FFmpeg.

    Packets are fed from memory rather than sought in the container, whose own seeking is exact in some formats only:
    from the nearest key frame before each frame where packets can be believed, else from the first.

    Args:
        content: The encoded video.
        numbers: (F,) of frames, as `inspect_video` counts them, in any order.

    Returns:
        (F, height, width, 3) RGB, as `ffmpeg` shows them: upright, colors by their tags.

    Raises:
        BadSampleError: One of the frames cannot be decoded.
    """
    try:
        with open_video(content) as container:
            stream = video_stream(container)
            stream.codec_context.thread_count = 1
            video = _opened(container, stream)
            found = _sought(video, video.track, numbers) if video.track else None
            if found is None:
                found = _from_the_first(video, numbers)
    except (FFmpegError, ValueError) as fault:
        raise BadSampleError("its video cannot be decoded") from fault
    missing = [number for number in numbers if number not in found]
    if missing:
        raise BadSampleError(f"its video's frame {missing[0]} cannot be decoded")
    return np.stack([found[number] for number in numbers])


def _opened(container: Any, stream: Any) -> _Video:
    """Read all packets and decode the first frame, which has to bear out what they say if they are to be believed.

    Raises:
        BadSampleError: No frame can be decoded.
    """
    context, packets = stream.codec_context, stored_packets(container, stream)
    claimed = context.width, context.height
    track = believed(container, stream, packets)
    first = _first_of(track, context) if track else None
    if first is not None and first.key_frame:
        check_frame(first, container, claimed)
        return _Video(context, packets, track, look_of(first))
    for unmarked in (False, True):
        if unmarked and not packets[0].is_keyframe:  # the last witness
            continue
        first = next(_frames(context, packets, unmarked), None)
        if first is not None:
            check_frame(first, container, claimed)
            return _Video(context, packets, None, look_of(first), unmarked)
    if any(packet.is_keyframe for packet in packets):
        raise BadSampleError("its video has no frames")
    raise BadSampleError("its video has no key frame to decode from")


def _first_of(track: Track, context: Any) -> Any:
    """Return the frame of a track's first packet, None if it holds none."""
    try:
        return next(iter(decode_stretch(context, track.packets[:1], {track.shown[0]})), None)
    except FFmpegError:
        return None


def _frames(context: Any, packets: list[Any], unmarked: bool, damage_ends: bool = False) -> Iterator[Any]:
    """Decode all packets and yield the frames from the first key frame on, or all where the decoder marks none.

    Packets that cannot be decoded are passed over, as `ffmpeg` does, unless damage is to end it.
    """
    context.flush_buffers()
    context.skip_frame = "DEFAULT"
    begun = unmarked or (packets[0].is_keyframe and packets[0].is_discard)  # an edit list hides the key frame itself
    for packet in (*packets, None):
        try:
            frames = context.decode(packet)
        except FFmpegError:
            if damage_ends:
                raise
            continue
        for frame in frames:
            begun = begun or frame.key_frame
            if begun:
                yield frame


def _times_of_packets(track: Track) -> tuple[list[int], int]:
    """Return the moments at which frames are shown and the end of the last one, in the stream's unit.

    Where the file does not say how long the last frame is shown, it is as long as most are.
    """
    last = next((p.duration for p in track.packets if p.pts == track.shown[-1] and p.duration), None)
    return track.shown, track.shown[-1] + (last or _usual_gap(track.shown))


def _times_of_frames(video: _Video, damage_ends: bool = False) -> tuple[list[int], int]:
    """Decode a video for the same as `_times_of_packets`."""
    found = [(frame.pts, frame.dts, frame.duration) for frame in video.frames(damage_ends)]
    moments = _ascending([pts for pts, _, _ in found], [dts for _, dts, _ in found], found[0][2] or 1)
    return moments, moments[-1] + (found[-1][2] or _usual_gap(moments))


def _ascending(pts: list[int | None], dts: list[int | None], duration: int) -> list[int]:
    """Return moments of frames that are in the order of being shown, from times that may be missing or exchanged.

    Those of presentation if they ascend, else those of decoding, which a decoder hands out in order, if they do; else
    those of presentation as far as they go forward. `duration` is that of the first.
    """
    both = _filled(pts, dts, duration), _filled(dts, pts, duration)
    ascending = (times for times in both if all(a < b for a, b in pairwise(times)))
    return next(ascending, None) or list(accumulate(both[0], max))


def _filled(times: list[int | None], others: list[int | None], gap: int) -> list[int]:
    """Fill in times that are missing: by the other ones where they go on, else by the gap before, at first `gap`."""
    found = [next((time for time in (times[0], others[0]) if time is not None), 0)]
    for time, other in zip(times[1:], others[1:], strict=True):
        gap = found[-1] - found[-2] if len(found) > 1 else gap
        guess = other if other is not None and other > found[-1] else found[-1] + gap
        found.append(guess if time is None else time)
    return found


def _usual_gap(moments: list[int]) -> int:
    return statistics.median_low([b - a for a, b in pairwise(moments)]) if len(moments) > 1 else 1


def _sought(video: _Video, track: Track, numbers: Sequence[int]) -> dict[int, NDArray[np.uint8]] | None:
    """Decode frames from the key frames before them; None where the decoder contradicts what packets say."""
    wanted = {track.shown[number]: number for number in numbers}
    found: dict[int, NDArray[np.uint8]] = {}
    try:
        for packets, times in track.stretches(sorted(wanted)):
            borne_out = False
            for frame in decode_stretch(video.context, packets, times):
                borne_out = borne_out or (frame.pts == packets[0].pts and frame.key_frame)
                if frame.pts in times:
                    found[wanted[frame.pts]] = rgb_of(frame, video.look.size)
            if not borne_out:
                return None
    except FFmpegError:
        return None
    return found if len(found) == len(wanted) else None


def _from_the_first(video: _Video, numbers: Sequence[int]) -> dict[int, NDArray[np.uint8]]:
    """Decode frames from the first packet on; of a track that the decoder contradicts, what is shown at its times.

    Raises:
        FFmpegError: Packets that were believed are damaged.
    """
    contradicted, places = video.track is not None, {number: number for number in numbers}
    if video.track:
        moments, _ = _times_of_frames(video, damage_ends=True)
        places = {number: bisect_right(moments, video.track.shown[number]) - 1 for number in numbers}
    wanted = {*places.values()}
    found: dict[int, NDArray[np.uint8]] = {}
    for place, frame in enumerate(video.frames(damage_ends=contradicted)):
        if place in wanted:
            found[place] = rgb_of(frame, video.look.size)
        if len(found) == len(wanted):
            break
    return {number: found[place] for number, place in places.items() if place in found}
