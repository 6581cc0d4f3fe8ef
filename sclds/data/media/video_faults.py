"""How videos are opened, and what makes one unusable then: no moving images, too many pixels, a size that is a lie."""

import io
from typing import Any

import av
from av.container import InputContainer

from sclds.data.storage.shards import BadSampleError

_DEFAULT_STREAM = 5_000_000
"""What the mark of being its container's default counts for, in pixels (`map_auto_video` of ffmpeg_mux_init.c)."""
_NAMES_IN_MATROSKA = (b"V_VP8", b"V_VP9")
_HEAD = 4096
"""Bytes in which Matroska names its tracks, as a rule."""
_UNSEEN = {"codec_whitelist": "none"}
"""Has FFmpeg know a video by its container alone, without decoding frames."""


def open_video(content: bytes) -> InputContainer:
    """Open a video: VP8 and VP9 of Matroska and WebM, which say all that is needed, in a third of the usual time.

    Raises:
        FFmpegError: It cannot be opened.
        BadSampleError: As `video_stream`.
    """
    if any(name in content[:_HEAD] for name in _NAMES_IN_MATROSKA):
        container = av.open(io.BytesIO(content), mode="r", options=_UNSEEN)
        context = video_stream(container).codec_context
        if context.name in _KEYFRAMES and context.width:
            return container
        container.close()
    return av.open(io.BytesIO(content), mode="r")


def video_stream(container: InputContainer) -> Any:
    """Return the stream whose frames are taken: of those that are no cover image the one that `ffmpeg` takes.

    That is the largest, where the container's default counts as larger by 5 million pixels; the first of equal ones.

    Raises:
        BadSampleError: There is none, or nobody knows its codec.
    """
    moving: list[Any] = []
    for stream in container.streams.video:
        if stream.codec_context is None and not moving:  # PyAV's sign that FFmpeg has no decoder for it
            raise BadSampleError("its video has a codec that is not known")
        if stream.codec_context is not None and not stream.disposition & av.stream.Disposition.attached_pic:
            moving.append(stream)
    if not moving:
        raise BadSampleError("its video has no video stream")
    return max(moving, key=_preference)


def _preference(stream: Any) -> int:
    context, default = stream.codec_context, bool(stream.disposition & av.stream.Disposition.default)
    return int(context.width * context.height + default * _DEFAULT_STREAM)


def check_size(what: str, width: int, height: int, max_pixels: int) -> None:
    """Refuse an image or frame that is too large to be decoded.

    Raises:
        BadSampleError: It has more than `max_pixels`.
    """
    if width * height > max_pixels:
        raise BadSampleError(f"its {what} has more pixels than data.max_pixels={max_pixels}: {width} × {height}")


def check_claim(content: bytes, container: InputContainer, stream: Any) -> None:
    """Refuse a VP8 or VP9 video whose container claims another size than its frames have.

    DALI scales every frame from the claimed size: of smaller frames it reads past the end, and larger ones it refuses.
    Where `open_video` saw no frames, `check_keyframe` and `check_frame` compare them with the claim.

    Args:
        content: The video.
        container: It, as opened by `open_video`.
        stream: Of the container, that is taken.

    Raises:
        BadSampleError: The sizes differ.
    """
    context = stream.codec_context
    if context.name not in _KEYFRAMES or container.options == _UNSEEN:
        return
    with av.open(io.BytesIO(content), mode="r", options=_UNSEEN) as unseen:
        claimed: Any = unseen.streams[stream.index].codec_context
        if claimed.width:
            _compare((claimed.width, claimed.height), (context.width, context.height))


def check_keyframe(packet: av.Packet) -> None:
    """Refuse a VP8 or VP9 video whose key frame has another size than the video, for the reason of `check_claim`.

    Raises:
        BadSampleError: This key frame has another size.
    """
    context = packet.stream.codec_context
    found = _KEYFRAMES[context.name](bytes(packet)) if packet.is_keyframe and context.name in _KEYFRAMES else None
    if found is not None:
        _compare((context.width, context.height), found)


def check_frame(frame: Any, container: InputContainer, claimed: tuple[int, int]) -> None:
    """Refuse a video whose first frame, as decoded, has another size than its container claims.

    Args:
        frame: The first.
        container: As `check_claim` takes it.
        claimed: Width and height of its codec's context before a frame was decoded.

    Raises:
        BadSampleError: The sizes differ.
    """
    if container.options == _UNSEEN:
        _compare(claimed, (frame.width, frame.height))


def _compare(claimed: tuple[int, int], found: tuple[int, int]) -> None:
    if claimed != found:
        raise BadSampleError(
            f"its video claims {claimed[0]} × {claimed[1]} pixels and has a frame of {found[0]} × {found[1]}"
        )


def _vp8_size(frame: bytes) -> tuple[int, int] | None:
    """Return width and height out of a VP8 key frame's header (RFC 6386, 9.1)."""
    if len(frame) < 10 or frame[0] & 1 or frame[3:6] != b"\x9d\x01\x2a":
        return None
    return int.from_bytes(frame[6:8], "little") & 0x3FFF, int.from_bytes(frame[8:10], "little") & 0x3FFF


def _vp9_size(frame: bytes) -> tuple[int, int] | None:
    """Return width and height out of a VP9 key frame's uncompressed header (VP9 bitstream specification, 6.2)."""
    bits = "".join(f"{byte:08b}" for byte in frame[:16])
    if len(bits) < 128 or bits[:2] != "10":
        return None
    profile = int(bits[3] + bits[2], 2)
    at = 4 + (profile == 3)
    if bits[at : at + 2] != "00":  # shows a frame it has shown before, or is no key frame
        return None
    at += 4  # and show_frame, error_resilient_mode
    if int(bits[at : at + 24], 2) != 0x498342:
        return None
    at += 24 + (profile >= 2)  # bit depth
    rgb = bits[at : at + 3] == "111"
    at += 3
    if rgb:
        at += profile & 1  # reserved
    else:
        at += 1 + 3 * (profile & 1)  # range; subsampling and a reserved bit
    return int(bits[at : at + 16], 2) + 1, int(bits[at + 16 : at + 32], 2) + 1


_KEYFRAMES = {"vp8": _vp8_size, "libvpx": _vp8_size, "vp9": _vp9_size, "libvpx-vp9": _vp9_size}
