"""The fusion pairs of packed views, the rows that readers take of the last layer, and hard negatives."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sclds.batch.duplicates import wrong_partners
from sclds.batch.ragged import Ints, concat, cumulative, exclusive_sum, lengths_of, padded, ranges
from sclds.batch.views import Layout, SampleViews, frame_cls_rows
from sclds.objectives import Pair, Read

_ORDER_OF_ROWS = ("cls", "frame_cls", "predicted", "completed", "replaced")
"""Readers of one pair come in this order, each sample's rows of all readers together."""


@dataclass(frozen=True)
class PairBuffer:
    """The pairs of all samples as numpy arrays, see `sclds.batch.types.Pairs` and `Reads`."""

    text_rows: Ints
    vision_rows: Ints
    text_cu_seqlens: Ints
    vision_cu_seqlens: Ints
    text_reads: "StreamReads"
    vision_reads: "StreamReads"
    first_vision_row: dict[str, int]
    """By pair, its first row among the vision rows."""
    lengths: dict[str, dict[str, Ints]]
    """By stream and pair, rows of each sample in packing order."""


class StreamReads:
    """The rows of one stream's last layer that are read, pair by pair, and where each reader finds its own."""

    def __init__(self, order: Ints) -> None:
        self.places: dict[Read, Ints] = {}
        """By read, places among the read rows, in the order of the samples."""
        self._rows: list[Ints] = []
        self._lengths: dict[str, Ints] = {}
        self._order = order
        self._count = 0

    @property
    def rows(self) -> Ints:
        """Return the pair rows that are read."""
        return concat(self._rows)

    def cu_seqlens(self, pairs: Iterable[str]) -> Ints:
        """Return the cumulative numbers of read rows of the pairs named."""
        return cumulative(concat([self._lengths[pair] for pair in pairs]))

    def add_pair(self, pair: str, wanted: dict[Read, tuple[Ints, Ints]]) -> None:
        """Note what is read of a pair: by read, rows of the pair buffer, and how many of them each sample has."""
        samples = np.arange(len(self._order))
        sample = concat([np.repeat(samples, per_sample) for _, per_sample in wanted.values()])
        by_sample = np.argsort(sample, kind="stable")
        place = np.empty_like(by_sample)
        place[by_sample] = self._count + np.arange(len(sample))
        first = 0
        for read, (rows, _) in wanted.items():
            own = slice(first, first + len(rows))
            self.places[read] = place[own][np.argsort(self._order[sample[own]], kind="stable")]
            first = own.stop
        self._rows.append(concat([rows for rows, _ in wanted.values()])[by_sample])
        self._lengths[pair] = np.bincount(sample, minlength=len(samples))
        self._count += len(sample)


def pack_pairs(
    views: Sequence[SampleViews],
    order: Ints,
    pairs: Sequence[Pair],
    reads: Iterable[Read],
    text: Layout,
    vision: Layout,
) -> PairBuffer:
    """Pack pairs of views, each pair of all samples in `order`, and note what `reads` take of them."""
    partners = np.array([v.itm_partner for v in views])
    members = [views[i] for i in order]
    text_rows, vision_rows, text_lengths, vision_lengths = [], [], [], []
    text_reads, vision_reads = StreamReads(order), StreamReads(order)
    text_row = vision_row = 0
    first_vision_row = {}
    sorted_reads = sorted(set(reads), key=lambda read: _ORDER_OF_ROWS.index(read.rows))
    for pair in pairs:
        shown = partners[order] if pair.with_partner else order
        text_rows.append(text.rows(pair.text, order))
        vision_rows.append(vision.rows(pair.vision, shown))
        text_lengths.append(text.length[pair.text][order])
        vision_lengths.append(vision.length[pair.vision][shown])
        first_vision_row[pair.name] = vision_row
        rows = _RowsOfPair(
            members,
            text_row + exclusive_sum(text_lengths[-1]),
            frame_cls_rows(vision_row + exclusive_sum(vision_lengths[-1]), vision_lengths[-1], vision.frames[shown]),
            vision.frames[shown],
        )
        own = [read for read in sorted_reads if read.pair == pair.name]
        text_reads.add_pair(pair.name, {read: rows(read) for read in own if read.stream == "text"})
        vision_reads.add_pair(pair.name, {read: rows(read) for read in own if read.stream == "vision"})
        text_row += len(text_rows[-1])
        vision_row += len(vision_rows[-1])
    return PairBuffer(
        concat(text_rows),
        concat(vision_rows),
        cumulative(concat(text_lengths)),
        cumulative(concat(vision_lengths)),
        text_reads,
        vision_reads,
        first_vision_row,
        {
            "text": dict(zip(first_vision_row, text_lengths, strict=True)),
            "vision": dict(zip(first_vision_row, vision_lengths, strict=True)),
        },
    )


@dataclass(frozen=True)
class _RowsOfPair:
    """Finds the rows of one pair, in packing order."""

    members: list[SampleViews]
    text_start: Ints
    frame_cls: Ints
    frames: Ints

    def __call__(self, read: Read) -> tuple[Ints, Ints]:
        """Return rows of the pair buffer, and how many each member has."""
        if read.rows == "cls":
            return self.text_start, np.ones_like(self.text_start)
        if read.rows == "predicted":
            return self._tokens([v.mlm_positions for v in self.members])
        if read.rows == "completed":
            return self._tokens([v.scl_positions for v in self.members])
        if read.rows == "frame_cls":
            return self.frame_cls, self.frames
        replaced = lengths_of([v.replaced for v in self.members])
        of_frame = concat([np.tile(v.replaced, v.frames) for v in self.members])
        rows = np.repeat(self.frame_cls, np.repeat(replaced, self.frames)) + 1 + of_frame
        return rows, replaced * self.frames

    def _tokens(self, positions: list[Ints]) -> tuple[Ints, Ints]:
        per_member = lengths_of(positions)
        return np.repeat(self.text_start, per_member) + concat(positions), per_member


def hard_candidates(
    views: Sequence[SampleViews], vision: Layout, group_size: int, *, duplicates: bool
) -> tuple[Ints, NDArray[np.bool_], Ints]:
    """Return (B, G) members of each sample's group, (B, G) which of them may be its wrong partner, and (B,) partners.

    Candidates are the members of the group that may be wrong partners and are as large as the packed partner, so that
    every length stays; `duplicates`: see `wrong_partners`.
    """
    count, length = len(views), vision.length["v0"]
    partner = np.array([v.itm_partner for v in views])
    members = np.arange(count)[:, None] // group_size * group_size + np.arange(group_size)
    present = members < count
    members = np.minimum(members, count - 1)
    as_large = length[members] == length[partner][:, None]
    wrong = np.array([v.itm_label == 0 for v in views])[:, None]
    possible = wrong_partners(views, np.arange(count)[:, None], members, duplicates=duplicates)
    return members, present & as_large & wrong & possible, partner


def itm_places(places: Ints, views: Sequence[SampleViews], vision: Layout) -> Ints:
    """Return the places of the ITM pairs' frame [CLS] rows as (B, most frames), -1 where a partner has fewer."""
    return padded(places, vision.frames[np.array([v.itm_partner for v in views])])


def itm_rows(views: Sequence[SampleViews], order: Ints, vision: Layout) -> tuple[Ints, Ints]:
    """Return, for every vision row of the ITM pairs, its sample and its place in the view."""
    shown = vision.length["v0"][np.array([v.itm_partner for v in views])[order]]
    return np.repeat(order, shown), ranges(0, shown)
