"""The fusion pairs of docs/method.md §3, and which of them, and of the views, the objectives in use need."""

from collections.abc import Collection
from dataclasses import dataclass

from sclds.objectives.table import Objective, Stream


@dataclass(frozen=True)
class Pair:
    """A text view beside a vision view of the same sample, or of its ITM partner."""

    name: str
    text: str
    """Text view: `t0` complete, `t1` masked for MLM, `t2` masked for completion."""
    vision: str
    """Vision view: `v0` complete, `v1` patches dropped, `v2` patches replaced (GLSCL)."""
    with_partner: bool = False
    """Whether the vision view is that of the sample's ITM partner."""


PAIRS = (
    Pair("mlm", "t1", "v0"),
    Pair("mvsc", "t0", "v1"),
    Pair("mlsc", "t2", "v0"),
    Pair("itm", "t0", "v0", with_partner=True),
    Pair("mltc", "t0", "v2"),
)
COMPLETE_TEXT, COMPLETE_VISION = "t0", "v0"


def pairs_in_use(objectives: Collection[Objective]) -> tuple[Pair, ...]:
    """Return the pairs that objectives read, in the order in which they are packed.

    Pairs whose vision output nobody reads come first and pairs whose text output nobody reads come last, so that the
    last fusion layer of either stream works on one contiguous range.
    """
    reads = {read for objective in objectives for read in objective.reads}

    def place(pair: Pair) -> int:
        streams = {read.stream for read in reads if read.pair == pair.name}
        return 0 if streams == {"text"} else 2 if streams == {"vision"} else 1

    needed = {read.pair for read in reads}
    return tuple(sorted((pair for pair in PAIRS if pair.name in needed), key=place))


def pairs_read(objectives: Collection[Objective], stream: Stream) -> tuple[str, ...]:
    """Return the names of the pairs of which one stream's output is read, in packing order."""
    named = {read.pair for objective in objectives for read in objective.reads if read.stream == stream}
    return tuple(pair.name for pair in pairs_in_use(objectives) if pair.name in named)


def view_names(objectives: Collection[Objective]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the text and the vision views that are packed: the complete ones, and what the pairs in use show."""
    pairs = pairs_in_use(objectives)
    texts, visions = {COMPLETE_TEXT} | {p.text for p in pairs}, {COMPLETE_VISION} | {p.vision for p in pairs}
    return tuple(sorted(texts)), tuple(sorted(visions))
