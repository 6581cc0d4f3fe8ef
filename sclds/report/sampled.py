"""Metrics of a long run, read in a fraction of a second: of many lines only those are parsed that a picture can show.

Parsing 100,000 lines as JSON takes seconds; finding a few numbers in each takes a tenth of that. So of every stretch of
the run those lines are parsed that are first, and those with the least and the largest total loss, gradient norm and
rate (M4 on lines, see `sclds.report.chart.thinned`); between them every curve is drawn through the firsts alone. Of
every stall its first, slowest and last line are parsed, and the one after it.
"""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sclds.run.metrics import HELDOUT, parse_line, read_metrics, tell_damaged

WHOLE_LINES = 4000
"""Files of up to so many lines are read whole."""
STRETCHES = 300
"""Of a long file: a chart is some 300 pixels wide."""
STALL_SHARE = 0.5
"""Of the median rate: what is slower is a stall."""
_STEP = b'{"step": '
_TOTAL, _NORM, _RATE = b'"total": ', b'"grad_norm": ', b'"samples_per_second": '
"""In the order of a line; its first `total` is the loss."""
_HELDOUT = f'"{HELDOUT}'.encode()
_REACH = len(_RATE) + 24
"""Bytes from a key's begin within which the longest number ends."""
_BUFFER = 2**18
"""Bytes that are looked through at a time, while the processor's cache has them."""


@dataclass(frozen=True)
class Sampled:
    """Lines of a metrics file.

    Attributes:
        lines: In the order of their steps.
        even: Steps of those at even distances, over which means are taken; empty where all lines are there.
        logged: Lines in the file that count.
    """

    lines: list[dict[str, Any]]
    even: frozenset[float]
    logged: int


@dataclass
class _Found:
    """What is found of lines without parsing them, an entry a line that is not damaged."""

    begins: list[int] = field(default_factory=list)
    """First byte of each in the file."""
    sizes: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    """In the file, from 1."""
    totals: list[bytes] = field(default_factory=list)
    """A few bytes that begin with the number; empty where a line lacks it."""
    norms: list[bytes] = field(default_factory=list)
    rates: list[bytes] = field(default_factory=list)
    measured: set[int] = field(default_factory=set)
    """Those with figures of held-out sets."""
    by_step: dict[int, int] = field(default_factory=dict)
    """The later line of a step that was taken again."""
    damaged: list[int] = field(default_factory=list)
    """Their numbers in the file."""
    count: int = 0
    """Of all lines, what stands behind the last one included."""


def sample_metrics(path: Path, problems: list[str]) -> Sampled:
    """Return the lines of a metrics file that its page shows; see `read_metrics`, which reads short ones.

    Args:
        path: The file.
        problems: Is given a sentence on what is left out.
    """
    try:
        with path.open("rb", buffering=_BUFFER) as file:
            found = _scanned(file)
            if found.count <= WHOLE_LINES:
                return _whole(path, problems)
            places = [found.by_step[step] for step in sorted(found.by_step)]
            firsts, others = _chosen(found, places, path.name, problems)
            parsed = {place: _parsed(file, found, places[place]) for place in sorted(firsts | others)}
    except OSError:
        return _whole(path, problems)
    damaged = found.damaged + [found.numbers[places[place]] for place, line in parsed.items() if line is None]
    tell_damaged(problems, path.name, sorted(damaged), found.count, "; lines that are not drawn were not looked into")
    lines = [line for line in parsed.values() if line is not None]
    even = frozenset(line["step"] for place, line in parsed.items() if line is not None and place in firsts)
    return Sampled(lines, even, len(places))


def _whole(path: Path, problems: list[str]) -> Sampled:
    lines = read_metrics(path, problems)
    return Sampled(lines, frozenset(), len(lines))


def _scanned(file: BinaryIO) -> _Found:
    """Return what is found of the lines; one that begins with its step, as ours do, and is whole is not parsed."""
    found = _Found()
    begin, text = 0, b""
    for number, text in enumerate(file, 1):
        found.count = number
        step = _step(text)
        if step is not None:
            found.by_step[step] = place = len(found.begins)
            found.begins.append(begin)
            found.sizes.append(len(text))
            found.numbers.append(number)
            if b"/" in text and _HELDOUT in text:  # a slash is rare, and found ten times as fast
                found.measured.add(place)
            # once each instead of in a loop: this is where the time of a long run's page goes
            at = text.find(_TOTAL)
            found.totals.append(text[at + len(_TOTAL) : at + _REACH] if at > 0 else b"")
            at = text.find(_NORM, max(at, 0))
            found.norms.append(text[at + len(_NORM) : at + _REACH] if at > 0 else b"")
            at = text.find(_RATE, max(at, 0))
            found.rates.append(text[at + len(_RATE) : at + _REACH] if at > 0 else b"")
        elif text.strip():
            found.damaged.append(number)
        begin += len(text)
    found.count += text.endswith(b"\n")
    return found


def _step(text: bytes) -> int | None:
    """Return the step of a line, or nothing of one that is damaged."""
    if text.startswith(_STEP) and text.endswith(b"}\n"):
        digits = text[len(_STEP) : max(0, text.find(b",", len(_STEP)))]
        if digits.isdigit():
            return int(digits)
    line = parse_line(text)
    return None if line is None else int(line["step"])


def _numbers(texts: Iterable[bytes]) -> Iterator[float]:
    """Yield the number that each text begins with; NaN for none."""
    for text in texts:
        try:
            yield float(text.partition(b",")[0].rstrip(b"}\n"))
        except ValueError:
            yield nan


def _parsed(file: BinaryIO, found: _Found, place: int) -> dict[str, Any] | None:
    """Return a line; it is read past the buffer, which going to it would fill anew."""
    return parse_line(os.pread(file.fileno(), found.sizes[place], found.begins[place]))


def _chosen(found: _Found, places: Sequence[int], name: str, problems: list[str]) -> tuple[set[int], set[int]]:
    """Return which lines are first in their stretch, and which others are to be seen, by their number in `places`.

    Args:
        found: Of all lines.
        places: Of those that count, by step.
        name: Of the file.
        problems: Is given a sentence on stalls that may not be shown.
    """
    count = len(places)
    edges = [number * count // STRETCHES for number in range(STRETCHES + 1)]
    others = {count - 1} if count else set()
    for texts in (found.totals, found.norms, found.rates):
        values = np.fromiter(_numbers(texts), float, len(texts))[places]
        for first, end in itertools.pairwise(edges):
            part = values[first:end]
            if np.isfinite(part).any():
                others |= {first + int(np.nanargmin(part)), first + int(np.nanargmax(part))}
        if texts is found.rates:
            others |= _stalled(values, name, problems)
    measured = [number for number, place in enumerate(places) if place in found.measured]
    others |= set(measured[:: max(1, len(measured) // STRETCHES)]) | set(measured[-1:])
    return set(edges[:-1]), others


def _stalled(rates: np.ndarray, name: str, problems: list[str]) -> set[int]:
    """Return first, slowest and last line of every stall, and the one after it, which tells it from the next."""
    if not np.isfinite(rates).any():
        return set()
    slow = np.concatenate(([False], rates < STALL_SHARE * np.nanmedian(rates), [False]))
    begins, ends = np.flatnonzero(~slow[:-1] & slow[1:]).tolist(), np.flatnonzero(slow[:-1] & ~slow[1:]).tolist()
    stalls = [(first, first + int(np.argmin(rates[first:end])), end) for first, end in zip(begins, ends, strict=True)]
    if len(stalls) > STRETCHES:
        problems.append(f"{name}: of {len(stalls):,} stalls the {STRETCHES} slowest are surely shown")
        stalls = sorted(stalls, key=lambda stall: float(rates[stall[1]]))[:STRETCHES]
    return {n for first, slowest, end in stalls for n in (first, slowest, end - 1, min(end, len(rates) - 1))}
