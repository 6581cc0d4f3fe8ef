"""Whether a video's packets can be believed: one frame each, shown at their times, decodable from where they say.

Where they can, frames are known without decoding and found from the key frame before them. It takes a container that
stores the time of every frame, a codec that puts one shown frame into each packet, and packets that contradict neither.
Everything else is decoded to be known: AVI stores no times, MPEG-4 packs two frames into a packet, an edit list hides.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sclds.data.media.video_faults import check_keyframe
from sclds.data.storage.shards import BadSampleError

_CONTAINERS = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"})
_CODECS = frozenset({"vp8", "vp9", "h264", "hevc", "av1"})
_PASSED_OVER = frozenset({"h264", "hevc"})
"""Codecs whose decoders may be asked to leave out frames that no other refers to: they obey for this very packet."""
_WHOLE_FRAMES = (0, 1)
"""Orders of fields, as FFmpeg numbers them, in which a packet is no half frame: unknown and progressive."""
_VP8_SHOWN, _VP9_INDEX = 0x10, 0b110


@dataclass(frozen=True)
class Track:
    """Packets that can be believed.

    Args:
        packets: In the order in which they are decoded; the first is a key frame, and shown first.
        shown: Presentation times in the stream's unit, ascending, without repeats.
    """

    packets: list[Any]
    shown: list[int]

    def stretches(self, wanted: Iterable[int]) -> Iterator[tuple[list[Any], set[int]]]:
        """Yield the packets to decode, from a key frame to the last one needed, with the times wanted of each stretch.

        A frame is decoded from the last key frame that is shown no later; so one that is stored after a key frame but
        shown before it comes from the key frame before.
        """
        keys = [(i, packet.pts) for i, packet in enumerate(self.packets) if packet.is_keyframe]
        place = {packet.pts: i for i, packet in enumerate(self.packets)}
        found: dict[int, list[int]] = {}
        for time in wanted:
            found.setdefault(max(i for i, key in keys if key <= time and i <= place[time]), []).append(time)
        for first, members in found.items():
            yield self.packets[first : max(place[time] for time in members) + 1], set(members)


def stored_packets(container: Any, stream: Any) -> list[Any]:
    """Read all packets of a stream.

    Raises:
        BadSampleError: There are none, or a key frame has another size than the video.
    """
    stored = [packet for packet in container.demux(stream) if packet.size]
    if not stored:
        raise BadSampleError("its video has no frames")
    for packet in stored:
        check_keyframe(packet)
    return stored


def believed(container: Any, stream: Any, packets: list[Any]) -> Track | None:
    """Return what packets say, None where they cannot be believed."""
    context = stream.codec_context
    codec = context.codec.canonical_name
    times = [packet.pts for packet in packets]
    if container.format.name not in _CONTAINERS or codec not in _CODECS or context.field_order not in _WHOLE_FRAMES:
        return None
    if any(p.pts is None or p.is_discard or p.is_corrupt or _hidden(codec, p) for p in packets):
        return None
    if not packets[0].is_keyframe or times[0] != min(times) or len(set(times)) < len(times):
        return None
    return Track(packets, sorted(times))


def decode_stretch(context: Any, packets: list[Any], wanted: set[int]) -> Iterator[Any]:
    """Decode a stretch of packets from its key frame; frames that no other refers to are left out where they may be.

    Yields:
        The frame of the first packet, if it comes out, and the wanted ones.
    """
    context.flush_buffers()
    passing = context.codec.canonical_name in _PASSED_OVER
    needed = wanted | {packets[0].pts}
    for packet in packets:
        context.skip_frame = "NONREF" if passing and packet.pts not in needed else "DEFAULT"
        yield from (frame for frame in context.decode(packet) if frame.pts in needed)
    yield from (frame for frame in context.decode(None) if frame.pts in needed)


def _hidden(codec: str, packet: Any) -> bool:
    """Return whether a packet of VP8 or VP9 holds a frame that is decoded but not shown, and nothing else."""
    if codec == "vp8":
        return not bytes(packet)[0] & _VP8_SHOWN
    if codec != "vp9":
        return False
    content = bytes(packet)
    if content[-1] >> 5 == _VP9_INDEX:
        return False  # several frames, of which the last is shown
    bits = f"{content[0]:08b}"
    again = 4 + (bits[2:4] == "11")  # "shows a frame of before", behind a bit that profile 3 reserves
    return bits[again] == "0" and bits[again + 2] == "0"
