"""The frames of a clip are those of its times: every codec, unsteady rates, reordered frames, cut streams.

The clips show their frame numbers, and are encoded by what PyAV brings: x264, x265, libvpx and FFmpeg's MPEG-4.
"""

import io

import av
import numpy as np
import pytest

from sclds.data.keys import generator
from sclds.data.media import videos
from sclds.data.media.decode import Decoder, Encoded
from sclds.data.media.inspection import inspect
from sclds.data.media.videos import choose_frames, inspect_video, read_frames
from sclds.data.storage.shards import BadSampleError

from ..synthetic import HIGH, WIDE, clip, image_members, number_of, timed_clip

N = 60
STEADY = [40 * k for k in range(N)]
UNSTEADY = np.cumsum([0, *[30, 200, 10, 500, 40] * N])[:N].tolist()
REORDERED = {"g": "12", "bf": "3", "x264-params": "open-gop=1:bframes=3:b-pyramid=normal"}
STREAMS = {
    "vp8": ("libvpx", "webm", {"g": "20"}),
    "vp9": ("libvpx-vp9", "webm", {"g": "20"}),
    "h264": ("libx264", "mp4", REORDERED),
    "h264, one key frame": ("libx264", "matroska", {"g": "250", "bf": "3"}),
    "hevc": ("libx265", "mp4", {"g": "12", "x265-params": "log-level=none:open-gop=1"}),
    "mpeg4": ("mpeg4", "mp4", {"g": "12", "bf": "2"}),
}


@pytest.fixture
def config(make_config):
    return make_config([image_members(["a", "b"])], [], {"global_size": 2, "group_size": 2}, video_size=64)


def shown(config, content: bytes, numbers: list[int]) -> list[int]:
    """Read the numbers that decoded frames show; the whole frame is scaled to 64 pixels a side, in patches of 8."""
    sample = Encoded("video", content, inspect("video", content), np.array(numbers, np.int32))
    patches = Decoder(config, 1)([sample]).reshape(len(numbers), 8, 8, 3, 8, 8)
    frames = patches.permute(0, 1, 4, 2, 5, 3).reshape(len(numbers), 64, 64, 3)
    std, mean = np.array(config.data.std), np.array(config.data.mean)
    return [number_of((frame.numpy() * std + mean) * 255) for frame in frames]


def shown_by_dali(content: bytes, numbers: list[int]) -> list[int]:
    """The same of DALI's decoder on the CPU, which numbers frames as its decoder on a GPU does."""
    import nvidia.dali.fn as fn
    from nvidia.dali import pipeline_def, types

    @pipeline_def(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1)
    def frames():
        encoded = fn.external_source(name="content", dtype=types.UINT8, ndim=1)
        return fn.decoders.video(encoded, frames=numbers, device="cpu", pad_mode="edge")

    (output,) = frames(exec_async=False, exec_pipelined=False).run(content=[np.frombuffer(content, np.uint8)])
    return [number_of(frame) for frame in np.asarray(output[0])]


@pytest.mark.parametrize("times", [STEADY, UNSTEADY], ids=["steady", "unsteady"])
@pytest.mark.parametrize("name", STREAMS)
def test_every_frame_is_known_by_its_time(name, times):
    content = timed_clip(times, *STREAMS[name])
    info = inspect_video(content)
    assert (info.width, info.height, info.frames, info.plain) == (WIDE, HIGH, N, name != "mpeg4")
    assert np.array(info.times[:-1]) == pytest.approx(np.array(times) / 1000, abs=1e-3)
    assert info.times[-1] > info.times[-2]
    numbers = [*range(0, N, 7), N - 1, 0]
    assert [number_of(frame) for frame in read_frames(content, numbers)] == numbers


@pytest.mark.parametrize("name", STREAMS)
def test_one_frame_alone_is_what_decoding_all_gives(name):
    content = timed_clip(UNSTEADY, *STREAMS[name])
    whole = read_frames(content, range(N))
    for number in (0, 11, 12, 13, 31, N - 1):
        assert np.array_equal(read_frames(content, [number])[0], whole[number])


@pytest.mark.parametrize("name", [name for name in STREAMS if name != "h264, one key frame"])
def test_a_stream_that_starts_between_key_frames_begins_at_the_first(name):
    content = timed_clip(UNSTEADY, *STREAMS[name], drop=5)
    info = inspect_video(content)
    lost = N - info.frames
    assert 5 <= lost <= 24
    assert not info.plain
    expected = (np.array(UNSTEADY[lost:]) - UNSTEADY[lost]) / 1000
    assert np.array(info.times[:-1]) == pytest.approx(expected, abs=1e-3)
    numbers = [0, 1, 5, info.frames - 1]
    assert [number_of(frame) - lost for frame in read_frames(content, numbers)] == numbers


@pytest.mark.parametrize("name", ["vp8", "vp9"])
def test_dali_numbers_the_frames_of_plain_videos_alike(name):
    content = timed_clip(UNSTEADY, *STREAMS[name])
    assert inspect_video(content).plain
    assert shown_by_dali(content, [0, 3, 21, N - 1]) == [0, 3, 21, N - 1]


@pytest.mark.parametrize("name", STREAMS)
def test_the_decoder_takes_the_frames_asked_for(config, name):
    assert shown(config, timed_clip(STEADY, *STREAMS[name]), [0, 13, 13, 59]) == [0, 13, 13, 59]


def test_packets_that_show_nothing_are_no_frames():
    content = timed_clip(STEADY, *STREAMS["vp8"])
    buffer = io.BytesIO()
    with av.open(io.BytesIO(content)) as source, av.open(buffer, "w", format="webm") as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(p for p in source.demux(video=0) if p.size):
            data = bytearray(bytes(packet))
            data[0] &= 0xFF if number != 7 else ~0x10
            changed = av.Packet(bytes(data))
            changed.pts, changed.dts, changed.time_base = packet.pts, packet.dts, packet.time_base
            changed.is_keyframe, changed.stream = packet.is_keyframe, stream
            output.mux(changed)
    hidden = buffer.getvalue()
    info = inspect_video(hidden)
    assert (info.frames, info.plain) == (N - 1, False)
    assert [number_of(frame) for frame in read_frames(hidden, [6, 7, 30])] == [6, 8, 31]


def test_only_packets_from_the_nearest_key_frame_are_decoded(monkeypatch):
    content = timed_clip(STEADY, "libx264", "mp4", {"g": "10", "bf": "0", "x264-params": "scenecut=0"})
    decoded = []
    decode = videos.decode_stretch

    def watched(context, packets, wanted):
        decoded.extend(packets)
        return decode(context, packets, wanted)

    monkeypatch.setattr(videos, "decode_stretch", watched)
    assert [number_of(frame) for frame in read_frames(content, [13, 52])] == [13, 52]
    assert len(decoded) == 1 + (13 - 10 + 1) + (52 - 50 + 1), "the first, to see whether packets can be believed"


def test_one_frame_is_drawn_of_each_segment():
    steady = np.arange(41) / 25
    assert choose_frames(steady, 4, None).tolist() == [5, 15, 25, 35]
    assert choose_frames(steady[:3], 4, None).tolist() == [0, 0, 1, 1]
    assert choose_frames(steady[:2], 3, generator(0)).tolist() == [0, 0, 0]
    drawn = np.array([choose_frames(steady[:11], 5, generator(0, k)) for k in range(200)])
    assert all(set(drawn[:, k].tolist()) == {2 * k, 2 * k + 1} for k in range(5))


def test_segments_are_equal_in_time_not_in_frames():
    """Nine frames in the first second, then one that stands for three: a quarter of the moments each."""
    times = [*(k / 9 for k in range(9)), 1.0, 4.0]
    drawn = np.array([choose_frames(times, 4, generator(0, k)) for k in range(300)])
    assert set(drawn[:, 0].tolist()) == set(range(9))
    assert set(drawn[:, 1:].ravel().tolist()) == {9}
    shares = np.bincount(drawn[:, 0], minlength=9) / 300
    assert np.abs(shares - 1 / 9).max() < 0.06


@pytest.mark.parametrize("content", [b"", b"not a clip at all" * 9, clip(4)[:200]])
def test_clips_without_frames_are_refused(content):
    with pytest.raises(BadSampleError):
        inspect("video", content)


def test_a_clip_without_a_key_frame_is_refused():
    content = timed_clip(STEADY[:10], *STREAMS["vp9"], drop=1)
    with pytest.raises(BadSampleError, match="no key frame"):
        inspect_video(content)


def test_a_frame_that_cannot_be_decoded_is_named_by_its_time():
    content = bytearray(timed_clip(STEADY, "libx264", "mp4", {"g": "10", "bf": "0"}))
    with av.open(io.BytesIO(bytes(content))) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    for position, size in packets[20:23]:
        content[position : position + size] = bytes(size)
    damaged = bytes(content)
    assert number_of(read_frames(damaged, [12])[0]) == 12
    with pytest.raises(BadSampleError, match=r"its video('s frame at 0\.80 s)? cannot be decoded"):
        read_frames(damaged, [12, 20])


def test_each_segment_has_a_moment_of_its_own():
    """One offset for all segments would show frames at equal distances only."""
    times = np.arange(1001) / 25
    drawn = np.array([choose_frames(times, 4, generator(0, k)) for k in range(100)])
    offsets = drawn - np.arange(4) * 250
    assert (offsets >= 0).all()
    assert (offsets < 250).all()
    apart = np.abs(offsets[:, :, None] - offsets[:, None, :])[:, *np.triu_indices(4, 1)]
    assert (apart > 10).mean() > 0.8
