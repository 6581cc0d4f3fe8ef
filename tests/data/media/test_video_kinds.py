"""Every kind of video: its frames are those that `ffmpeg` shows, in their order, at their times, upright, in RGB."""

import io
from typing import Any

import av
import numpy as np
import pytest
from av.filter import Graph

from sclds.data.media.decode import Decoder, Encoded
from sclds.data.media.inspection import inspect
from sclds.data.media.pipeline import source_of
from sclds.data.media.videos import read_frames

from ..synthetic import image_members, number_of
from .video_kinds import (
    BT601,
    BT709,
    BT2020,
    FULL,
    KINDS,
    LIMITED,
    SVT,
    TURNS,
    VPX,
    X264,
    X265,
    Kind,
    N,
    made,
    packed,
    pixels_of,
    together,
)


def as_ffmpeg_shows(content: bytes) -> list[np.ndarray]:
    """All frames decoded in a row and converted by a filter graph, without any of our own code."""
    found = []
    with av.open(io.BytesIO(content)) as container:
        stream: Any = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for frame in container.decode(stream):
            graph = Graph()
            source = graph.add(
                "buffer",
                f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base=1/25"
                f":colorspace={int(frame.colorspace)}:range={int(frame.color_range)}",
            )
            nodes = source, graph.add("scale", "flags=bicubic"), graph.add("format", "rgb24"), graph.add("buffersink")
            graph.link_nodes(*nodes).configure()
            graph.push(frame)
            shown: Any = graph.pull()
            found.append(shown.to_ndarray())
    return found


@pytest.mark.parametrize("name", KINDS)
def test_frames_are_those_that_ffmpeg_shows(name):
    kind = KINDS[name]
    content = made(kind)
    info, expected = inspect("video", content), as_ffmpeg_shows(content)
    hidden = 3 if name == "H.264, negative times" else 0  # by an edit list
    assert (info.width, info.height, info.frames) == (*kind.size, len(expected)) == (*kind.size, N - hidden)
    numbers = [*range(0, info.frames, 5), info.frames - 1, 1, 2]  # in no order
    frames = read_frames(content, numbers)
    assert [number_of(frame) - hidden for frame in frames] == numbers
    assert all(np.array_equal(frame, expected[number]) for frame, number in zip(frames, numbers, strict=True))
    times = np.array(info.times)
    assert (np.diff(times) > 0).all()
    if kind.exact:
        assert times[:-1] * 25 == pytest.approx(np.array(kind.times[hidden:]) - kind.times[hidden], abs=0.06)


def test_the_table_is_large_and_both_ways_of_knowing_frames_are_in_it():
    plain = [name for name, kind in KINDS.items() if inspect("video", made(kind)).plain]
    assert len(KINDS) >= 50
    assert {"H.264 in mp4", "HEVC in mp4", "VP8 in webm", "VP9 in webm", "AV1 of SVT in webm"} <= {*plain}
    assert not [name for name in plain if any(word in name for word in ("avi", "mpegts", "MPEG-4", "10 bits", "4:4:4"))]


LIES = {"every packet": lambda number: True, "no packet": lambda number: False, "the 6th too": lambda n: n in (0, 5)}
STREAMS = [("libx264", X264), ("libx265", X265), ("libvpx-vp9", VPX), ("libvpx", VPX), ("libsvtav1", SVT)]


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize(("codec", "options"), STREAMS)
def test_key_flags_are_not_believed_against_the_decoder(codec, options, lie):
    lying = made(Kind(codec, "matroska", options), LIES[lie])
    assert inspect("video", lying).frames == N
    expected = as_ffmpeg_shows(lying)
    for numbers in ([7], [N - 1, 3], [0, 6, 12, 20]):
        frames = read_frames(lying, numbers)
        assert [number_of(frame) for frame in frames] == numbers
        assert np.array_equal(frames, [expected[number] for number in numbers])


def test_packed_frames_of_avi_are_in_the_order_of_being_shown():
    content = packed()
    info, expected = inspect("video", content), as_ffmpeg_shows(content)
    assert info.frames == len(expected) == N
    assert np.diff(info.times) == pytest.approx(np.full(N, 1 / 25))
    assert [number_of(frame) for frame in read_frames(content, range(N))] == [*range(N)]
    assert [number_of(frame) for frame in read_frames(content, [17, 4])] == [17, 4]


SMALL, LARGE = Kind("libx264", "matroska", X264, size=(48, 32)), Kind("libx264", "matroska", X264)


@pytest.mark.parametrize(
    ("kinds", "default", "taken"),
    [
        ((SMALL, LARGE), 9, 1),
        ((LARGE, SMALL), 9, 0),
        ((LARGE, LARGE), 9, 0),
        ((LARGE, LARGE), 1, 1),
        ((LARGE, SMALL), 1, 1),
    ],
)
def test_of_several_streams_that_of_ffmpeg_is_taken(kinds, default, taken):
    """ffmpeg_mux_init.c: the largest, where the default counts for 5 million pixels more; the first of equal ones."""
    content = together(kinds, default)
    info = inspect("video", content)
    assert (info.width, info.height, info.frames) == (*kinds[taken].size, N)
    assert not info.plain  # other readers have rules of their own
    assert [number_of(frame) for frame in read_frames(content, [3, 20])] == [100 * taken + 3, 100 * taken + 20]


@pytest.mark.parametrize("container", ["mp4", "mov"])
@pytest.mark.parametrize("name", TURNS)
def test_the_display_matrix_is_applied(name, container):
    matrix, turned = TURNS[name]
    plain, kind = (Kind("libx264", container, X264, "yuv444p", matrix=given) for given in (None, matrix))
    stored, found = (read_frames(made(one), [3, 10]) for one in (plain, kind))
    info = inspect("video", made(kind))
    for before, after in zip(stored, found, strict=True):
        upright = turned(before)
        assert (info.height, info.width) == upright.shape[:2] == after.shape[:2]
        assert np.abs(after.astype(int) - upright).max() <= 1
    assert not info.plain


COLORS = {
    "VP9 of BT.709": Kind("libvpx-vp9", "webm", VPX, colors=(BT709, LIMITED)),
    "VP9 of BT.601": Kind("libvpx-vp9", "webm", VPX, colors=(BT601, LIMITED)),
    "VP9 of BT.2020": Kind("libvpx-vp9", "webm", VPX, colors=(BT2020, LIMITED)),
    "VP9 of full range": Kind("libvpx-vp9", "webm", VPX, colors=(BT601, FULL)),
    "H.264 of BT.709": Kind("libx264", "mp4", X264, colors=(BT709, LIMITED)),
    "H.264 of BT.709 and full range": Kind("libx264", "mp4", X264, colors=(BT709, FULL)),
    "H.264 in avi, of BT.709": Kind("libx264", "avi", X264, colors=(BT709, LIMITED)),
    "HEVC of BT.2020, 10 bits": Kind("libx265", "mp4", X265, "yuv420p10le", colors=(BT2020, LIMITED)),
    "MJPEG": Kind("mjpeg", "mov", {"qscale": "1"}, "yuvj420p", colors=(BT601, FULL)),
}


@pytest.mark.parametrize("name", COLORS)
def test_colors_follow_their_tags(name):
    kind = COLORS[name]
    content = made(kind)
    (frame,), stored = read_frames(content, [5]), pixels_of(kind, 5)
    for row, column in ((16, 6), (16, 18), (48, 6), (48, 18)):  # middles of a light and a dark bar, green and grey
        assert np.abs(frame[row, column].astype(int) - stored[row, column]).max() <= 12, (row, column)
    assert np.array_equal(frame, as_ffmpeg_shows(content)[5])
    assert inspect("video", content).plain == (name == "VP9 of BT.601")


def test_on_a_gpu_only_plain_videos_go_to_its_decoder(make_config):
    """Elsewhere the matrices, the numbering and the turning of its decoder are its own."""
    config = make_config([image_members(["a", "b"])], [], {"global_size": 2, "group_size": 2})
    data = config.data.model_copy(update={"device": "mixed"})
    for name, kind in ((KINDS | COLORS) | {"turned": Kind("libx264", "mp4", X264, matrix=(0, 1, -1, 0))}).items():
        content = made(kind)
        info = inspect("video", content)
        sample = Encoded("video", content, info, np.zeros(1, np.int32))
        assert source_of(sample, config.data) == "frames"
        assert source_of(sample, data) == ("video" if info.plain else "frames"), name
        assert source_of(sample, data.model_copy(update={"nvdec": False})) == "frames"


def test_turned_videos_of_one_batch_are_cut_as_they_are_shown(make_config):
    config = make_config([image_members(["a", "b"])], [], {"global_size": 2, "group_size": 2}, video_size=64)
    samples = []
    for matrix in (None, (0, 1, -1, 0)):
        content = made(Kind("libx264", "mp4", X264, matrix=matrix))
        samples.append(Encoded("video", content, inspect("video", content), np.array([3, 9], np.int32)))
    straight, turned = Decoder(config, 2).each(samples)
    shown = [
        part.reshape(2, 8, 8, 3, 8, 8).permute(0, 1, 4, 2, 5, 3).reshape(2, 64, 64, 3) for part in (straight, turned)
    ]
    assert np.abs(np.rot90(shown[0].numpy(), -1, (1, 2)) - shown[1].numpy()).max() < 0.05
