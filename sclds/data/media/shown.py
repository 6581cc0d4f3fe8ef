"""Decoded frames of a video as FFmpeg's own program shows them: upright, and in RGB by their color tags.

A filter graph converts them, the one that `ffmpeg` puts in by itself: display matrix, then swscale. The sample aspect
ratio is left alone, as `ffmpeg` leaves it when it writes images.
"""

import math
import threading
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import Type
from numpy.typing import NDArray

Filters = tuple[tuple[str, str | None], ...]
_TURNED = frozenset({"transpose"})
_NEAR = 1.0
"""Degrees by which a display matrix may miss a right angle."""
_UNSPECIFIED, _LIMITED = 2, 1
_COLORS_OF_601 = (_UNSPECIFIED, 5, 6)  # matrices: swscale takes an unspecified one for BT.601
_RANGES_LIMITED = (0, _LIMITED)


class Look(NamedTuple):
    """What decides how a frame is shown."""

    width: int
    height: int
    format: str
    colors: int
    """The matrix, as FFmpeg numbers it (H.273)."""
    range: int
    """0 unspecified, 1 limited, 2 full."""
    filters: Filters
    """Names and arguments of the filters that turn it upright."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) as shown."""
        turned = any(name in _TURNED for name, _ in self.filters)
        return (self.height, self.width) if turned else (self.width, self.height)

    @property
    def plain(self) -> bool:
        """Whether every decoder shows it alike: 8-bit 4:2:0 of limited range in BT.601, stored upright."""
        usual = self.format == "yuv420p" and self.colors in _COLORS_OF_601 and self.range in _RANGES_LIMITED
        return usual and not self.filters


def look_of(frame: Any) -> Look:
    """Return what decides how a decoded frame is shown."""
    matrices = [np.frombuffer(bytes(data), np.int32) for data in frame.side_data if data.type == Type.DISPLAYMATRIX]
    filters = upright(matrices[0].tolist()) if matrices else ()
    return Look(frame.width, frame.height, frame.format.name, int(frame.colorspace), int(frame.color_range), filters)


def upright(matrix: list[int]) -> Filters:
    """Return the filters by which `ffmpeg` applies a display matrix.

    Args:
        matrix: Its nine fixed-point numbers, row-major (libavutil/display.h).
    """
    across, down = (math.hypot(matrix[k], matrix[k + 3]) for k in (0, 1))
    if not across or not down:
        return ()
    angle = round(math.degrees(math.atan2(matrix[1] / down, matrix[0] / across))) % 360  # clockwise
    if abs(angle - 90) < _NEAR:
        return (("transpose", "cclock_flip" if matrix[3] > 0 else "clock"),)
    if abs(angle - 180) < _NEAR:
        flips = (("hflip", None), matrix[0] < 0), (("vflip", None), matrix[4] < 0)
        return tuple(flip for flip, wanted in flips if wanted)
    if abs(angle - 270) < _NEAR:
        return (("transpose", "clock_flip" if matrix[3] < 0 else "cclock"),)
    if angle:
        return (("rotate", f"{angle}*PI/180"),)
    return (("vflip", None),) if matrix[4] < 0 else ()


class _Kept(threading.local):
    """Graphs of the last looks, of each thread its own: to make one costs as much as to convert ten small frames."""

    def __init__(self) -> None:
        self.graphs: dict[tuple[Look, tuple[int, int]], Graph] = {}


_MOST_KEPT = 8
_kept = _Kept()


def rgb_of(frame: Any, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a decoded frame as it is shown.

    Args:
        frame: The frame.
        size: (width, height) to which it is scaled, if it is shown at another one.

    Returns:
        (height, width, 3) RGB, upright.

    Raises:
        FFmpegError, ValueError: Its format cannot be converted.
    """
    look, graphs = look_of(frame), _kept.graphs
    graph = graphs.pop((look, size), None) or _graph(look, size)
    graph.push(frame)
    shown: Any = graph.pull()
    graphs[look, size] = graph  # only one that did not fail, and as the newest
    if len(graphs) > _MOST_KEPT:
        del graphs[next(iter(graphs))]
    return np.asarray(shown.to_ndarray(), np.uint8)


def _graph(look: Look, size: tuple[int, int]) -> Graph:
    graph = Graph()
    graph.threads = 1
    source = graph.add(
        "buffer",
        video_size=f"{look.width}x{look.height}",
        pix_fmt=look.format,
        time_base=str(Fraction(1, 1000)),  # times play no part here
        colorspace=str(look.colors),
        range=str(look.range),
    )
    chain = [source, *(graph.add(name, arguments) for name, arguments in look.filters)]
    chain.append(graph.add("scale", "{}:{}:flags=bicubic".format(*size)))
    chain.append(graph.add("format", "pix_fmts=rgb24"))
    graph.link_nodes(*chain, graph.add("buffersink")).configure()
    return graph
