"""A video in every way of storing it that is met in the field: frame k shows k. Made by PyAV's encoders and muxers."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
import numpy as np

from ..synthetic import encoding, numbered

N = 24
STEADY = tuple(range(N))
UNSTEADY = tuple(np.cumsum([0, *[1, 5, 1, 9, 2] * N])[:N].tolist())
LATE = tuple(range(-3, N - 3))
"""The first time stamps are negative."""
BT601, BT709, BT2020, UNTAGGED = 6, 1, 9, 2
LIMITED, FULL = 1, 2
_SWS = {BT709: "itu709", BT2020: "bt2020"}


@dataclass(frozen=True)
class Kind:
    """How a video is made."""

    codec: str
    container: str
    options: dict[str, str] = field(default_factory=dict)
    format: str = "yuv420p"
    size: tuple[int, int] = (96, 64)
    times: Sequence[int] = STEADY
    """In 1/25 s."""
    matrix: tuple[int, int, int, int] | None = None
    """Of the container's display matrix: a, b, c, d."""
    colors: tuple[int, int] = (UNTAGGED, 0)
    """Matrix and range, as FFmpeg numbers them; frames are converted so and tagged so."""
    exact: bool = True
    """The container stores the time of every frame."""


def pixels_of(kind: Kind, number: int) -> np.ndarray:
    """Eight bars that show a number, as `synthetic.numbered`; the upper half is green where bars are light."""
    width, height = kind.size
    bars = np.repeat(numbered(number)[0, 6::12], -(-width // 8), axis=0)[:width]
    pixels = np.broadcast_to(bars, (height, width, 3)).copy()
    if kind.colors != (UNTAGGED, 0):
        pixels[: height // 2] = np.where(pixels[: height // 2] > 128, np.array([37, 206, 47], np.uint8), 20)
    return pixels


def frame_of(kind: Kind, number: int) -> Any:
    matrix, spread = kind.colors
    frame = av.VideoFrame.from_ndarray(pixels_of(kind, number), format="rgb24").reformat(
        format=kind.format,
        dst_colorspace=_SWS.get(matrix, "itu601"),
        dst_color_range=spread or (FULL if kind.format.startswith("yuvj") else LIMITED),
    )
    frame.colorspace, frame.color_range = kind.colors
    frame.pts, frame.time_base = kind.times[number], Fraction(1, 25)
    return frame


def made(kind: Kind, key: Callable[[int], bool] | None = None) -> bytes:
    """The video of a kind; `key` says which packets claim to be key frames, as they are stored."""
    buffer = io.BytesIO()
    with encoding(buffer, kind.container) as output:
        stream: Any = output.add_stream(kind.codec, rate=25, options=kind.options)
        stream.width, stream.height = kind.size
        stream.pix_fmt = kind.format
        stream.time_base = stream.codec_context.time_base = Fraction(1, 25)
        stream.codec_context.colorspace, stream.codec_context.color_range = kind.colors
        if kind.matrix is not None:
            a, b, c, d = (value * 65536 for value in kind.matrix)
            stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        packets = [packet for number in range(N) for packet in stream.encode(frame_of(kind, number))]
        for number, packet in enumerate([*packets, *stream.encode()]):
            packet.is_keyframe = packet.is_keyframe if key is None else key(number)
            output.mux(packet)
    return buffer.getvalue()


X264 = {"g": "8", "bf": "2"}
OPEN = {"g": "8", "bf": "3", "x264-params": "open-gop=1:bframes=3:b-pyramid=normal:scenecut=0"}
REFRESH = {"g": "12", "bf": "0", "x264-params": "intra-refresh=1:scenecut=0"}
X265 = {"g": "8", "x265-params": "log-level=none:open-gop=1:pools=1:frame-threads=1"}
SVT = {"preset": "10", "svtav1-params": "lp=1", "g": "12"}
VPX = {"g": "12", "deadline": "realtime", "cpu-used": "8"}
ALTREF = {"g": "24", "deadline": "good", "cpu-used": "5", "auto-alt-ref": "1", "lag-in-frames": "16"}
BFRAMES = {"g": "12", "bf": "2"}
PLAIN = {"g": "12"}

KINDS: dict[str, Kind] = {
    **{f"H.264 in {c}": Kind("libx264", c, X264) for c in ("mp4", "mov", "matroska", "flv", "mpegts", "avi", "nut")},
    **{f"H.264 in {c}, unsteady": Kind("libx264", c, OPEN, times=UNSTEADY) for c in ("mp4", "matroska", "flv")},
    "H.264, open groups, in mpegts": Kind("libx264", "mpegts", OPEN),
    "H.264, negative times": Kind("libx264", "mp4", X264, times=LATE),
    "H.264 in mpegts, negative times": Kind("libx264", "mpegts", X264, times=LATE),
    "H.264, one key frame only": Kind("libx264", "mp4", REFRESH),
    "H.264 4:4:4": Kind("libx264", "matroska", X264, "yuv444p"),
    "H.264 of 10 bits": Kind("libx264", "mp4", X264, "yuv420p10le"),
    "H.264, odd size": Kind("libx264", "mp4", X264, "yuv444p", size=(97, 65)),
    "H.264, interlaced": Kind("libx264", "mp4", X264 | {"flags": "+ildct+ilme"}),
    "HEVC in mp4": Kind("libx265", "mp4", X265),
    "HEVC in matroska, unsteady": Kind("libx265", "matroska", X265, times=UNSTEADY),
    "HEVC in mpegts": Kind("libx265", "mpegts", X265),
    "VP8 in webm": Kind("libvpx", "webm", VPX),
    "VP8 in webm, unsteady, hidden frames": Kind("libvpx", "webm", ALTREF, times=UNSTEADY),
    "VP8 in ogg": Kind("libvpx", "ogg", VPX, exact=False),
    "VP8 in avi": Kind("libvpx", "avi", VPX),
    "VP9 in webm": Kind("libvpx-vp9", "webm", VPX),
    "VP9 in mp4, unsteady, hidden frames": Kind("libvpx-vp9", "mp4", ALTREF, times=UNSTEADY),
    "VP9 in flv": Kind("libvpx-vp9", "flv", VPX),
    "VP9 4:4:4": Kind("libvpx-vp9", "webm", VPX, "yuv444p"),
    "AV1 of SVT in webm": Kind("libsvtav1", "webm", SVT),
    "AV1 of SVT in mp4, unsteady": Kind("libsvtav1", "mp4", SVT, times=UNSTEADY),
    "AV1 of SVT in matroska, 10 bits": Kind("libsvtav1", "matroska", SVT, "yuv420p10le"),
    "MPEG-4 in avi": Kind("mpeg4", "avi", BFRAMES),
    "MPEG-4 in mp4, unsteady": Kind("mpeg4", "mp4", BFRAMES, times=UNSTEADY),
    "MPEG-4 in matroska": Kind("mpeg4", "matroska", BFRAMES),
    "MPEG-4 in mpegts": Kind("mpeg4", "mpegts", BFRAMES),
    "MPEG-1": Kind("mpeg1video", "mpeg", BFRAMES, exact=False),
    "MPEG-2 in mpegts": Kind("mpeg2video", "mpegts", BFRAMES),
    "MPEG-2 in avi": Kind("mpeg2video", "avi", BFRAMES, exact=False),
    "MS-MPEG-4": Kind("msmpeg4", "avi", PLAIN),
    "WMV 2": Kind("wmv2", "asf", PLAIN),
    "H.263": Kind("h263", "3gp", PLAIN, size=(128, 96)),
    "FLV": Kind("flv", "flv", PLAIN),
    "MJPEG in avi": Kind("mjpeg", "avi", {"qscale": "2"}, "yuvj420p"),
    "MJPEG in mov": Kind("mjpeg", "mov", {"qscale": "2"}, "yuvj422p"),
    "GIF": Kind("gif", "gif", {}, "rgb8"),
    "GIF, unsteady": Kind("gif", "gif", {}, "rgb8", times=UNSTEADY),
    "APNG": Kind("apng", "apng", {}, "rgb24"),
    "ProRes": Kind("prores_ks", "mov", {}, "yuv422p10le"),
    "FFV1": Kind("ffv1", "matroska"),
    "HuffYUV": Kind("huffyuv", "avi", {}, "rgb24"),
    "QuickTime animation": Kind("qtrle", "mov", {}, "rgb24"),
    "Cinepak": Kind("cinepak", "avi", {}, "rgb24"),
    "Sorenson": Kind("svq1", "mov", {}, "yuv410p"),
    "CineForm": Kind("cfhd", "mov", {}, "yuv422p10le"),
    "Snow": Kind("snow", "matroska"),
    "raw": Kind("rawvideo", "avi"),
}

TURNS: dict[str, tuple[tuple[int, int, int, int], Any]] = {
    "90 degrees": ((0, 1, -1, 0), lambda a: np.rot90(a, -1)),
    "180 degrees": ((-1, 0, 0, -1), lambda a: np.rot90(a, 2)),
    "270 degrees": ((0, -1, 1, 0), lambda a: np.rot90(a, 1)),
    "mirrored": ((-1, 0, 0, 1), lambda a: a[:, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda a: a[::-1]),
    "transposed": ((0, 1, 1, 0), lambda a: a.transpose(1, 0, 2)),
    "transposed the other way": ((0, -1, -1, 0), lambda a: np.rot90(a, 2).transpose(1, 0, 2)),
}
"""Display matrix, and what it does to a frame as stored."""


def packed() -> bytes:
    """MPEG-4 in AVI whose packets hold a frame and the one that is shown before it, then nothing: packed B-frames."""
    content = made(Kind("mpeg4", "avi", {"g": "12", "bf": "1", "b_strategy": "0", "flags": "+bitexact"}))
    with av.open(io.BytesIO(content)) as source:
        stored = [bytes(packet) for packet in source.demux(video=0) if packet.size]
    vop = b"\0\0\1\xb6"
    kinds = [data[data.index(vop) + 4] >> 6 for data in stored]  # 0 I, 1 P, 2 B
    contents = []
    for data, kind in zip(stored, kinds, strict=True):
        if kind == 2:
            contents[-1] += data
            contents.append(vop + b"\x52\x40")  # a P-VOP that is not coded
        else:
            contents.append(data)
    at = contents[0].index(vop)
    contents[0] = contents[0][:at] + b"\0\0\1\xb2DivX503b1393p" + contents[0][at:]
    buffer = io.BytesIO()
    with av.open(io.BytesIO(content)) as source, av.open(buffer, "w", format="avi") as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for number, data in enumerate(contents):
            packet = av.Packet(data)
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            packet.pts = packet.dts = number
            packet.is_keyframe = kinds[number] == 0
            output.mux(packet)
    return buffer.getvalue()


def together(kinds: Sequence[Kind], default: int) -> bytes:
    """Several videos as the streams of one file; stream k shows numbers from 100 · k on, and one is the default."""
    buffer = io.BytesIO()
    with encoding(buffer, kinds[0].container) as output:
        streams: list[Any] = []
        for number, kind in enumerate(kinds):
            stream: Any = output.add_stream(kind.codec, rate=25, options=kind.options)
            stream.width, stream.height = kind.size
            stream.pix_fmt = kind.format
            stream.time_base = stream.codec_context.time_base = Fraction(1, 25)
            stream.disposition = av.stream.Disposition.default if number == default else 0
            streams.append(stream)
        for place in range(N):
            for number, (stream, kind) in enumerate(zip(streams, kinds, strict=True)):
                frame = av.VideoFrame.from_ndarray(pixels_of(kind, 100 * number + place), format="rgb24")
                frame.pts, frame.time_base = place, Fraction(1, 25)
                output.mux(stream.encode(frame.reformat(format=kind.format)))
        for stream in streams:
            output.mux(stream.encode())
    return buffer.getvalue()


def turned() -> list[Kind]:
    """A video of each display matrix."""
    return [Kind("libx264", "mp4", X264, matrix=matrix) for matrix, _ in TURNS.values()]
