"""Metrics of a long run, read in a fraction of a second: of many lines only those are parsed that a picture can show.

Parsing 100,000 lines as JSON takes seconds; finding a few numbers in each takes a third of one. So of every stretch of
the run those lines are parsed that are first, and those with the least and the largest total loss, gradient norm and
rate (M4 on lines, see `sclds.report.chart.thinned`); between them every curve is drawn through the firsts alone.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sclds.run.metrics import HELDOUT, parse_line, read_metrics

WHOLE_LINES = 4000
"""Files of up to so many lines are read whole."""
STRETCHES = 400
WATCHED = (b'"total": ', b'"grad_norm": ', b'"samples_per_second": ')
"""Whose least and largest values are kept; the first `total` of a line is the loss."""
_HELDOUT = f'"{HELDOUT}'.encode()


@dataclass(frozen=True)
class Sampled:
    """Lines of a metrics file.

    Attributes:
        lines: In the order of their steps.
        even: Steps of those at even distances, over which means are taken; empty where all lines are there.
        logged: Lines in the file.
    """

    lines: list[dict[str, Any]]
    even: frozenset[float]
    logged: int


def sample_metrics(path: Path, problems: list[str]) -> Sampled:
    """Return the lines of a metrics file that its page shows; see `read_metrics`, which reads short ones.

    Args:
        path: The file.
        problems: Is given a sentence on what is left out.
    """
    try:
        content = path.read_bytes() if path.is_file() else b""
    except OSError:
        content = b""
    texts = content.split(b"\n")
    if len(texts) <= WHOLE_LINES:
        lines = read_metrics(path, problems)
        return Sampled(lines, frozenset(), len(lines))
    by_step = {step: place for place, text in enumerate(texts) if (step := _step(text)) is not None}
    steps = sorted(by_step)
    places = [by_step[step] for step in steps]
    firsts, others = _chosen(texts, places, _HELDOUT in content)
    lines, damaged, even = [], 0, []
    for number in sorted({*firsts, *others}):
        line = parse_line(texts[places[number]])
        if line is None:
            damaged += 1
            continue
        lines.append(line)
        if number in firsts:
            even.append(line["step"])
    unread = sum(1 for text in texts if text.strip()) - len(steps)
    if damaged + unread > 0:
        problems.append(
            f"{path.name}: {damaged + unread} lines are left out: damaged, or of steps that were taken again (of the "
            f"others, those that are not drawn were not looked at)"
        )
    return Sampled(lines, frozenset(even), len(steps))


def _step(text: bytes) -> int | None:
    """Return the step of a line that begins with it and is whole, without parsing it."""
    if text[:9] != b'{"step": ' or text[-1:] != b"}":
        return None
    digits = text[9 : text.find(b",", 9, 40)]
    return int(digits) if digits.isdigit() else None


def _chosen(texts: list[bytes], places: list[int], any_heldout: bool) -> tuple[set[int], set[int]]:
    """Return which lines are first in their stretch, and which others are to be seen, by their number.

    Args:
        texts: All lines.
        places: Of those that count, by step.
        any_heldout: Whether a line has figures of held-out sets.
    """
    count = len(places)
    edges = [number * count // STRETCHES for number in range(STRETCHES + 1)]
    others = {count - 1} if count else set()
    for key in WATCHED:
        values = np.array([_number(texts[place], key) for place in places])
        for first, end in itertools.pairwise(edges):
            part = values[first:end]
            if np.isfinite(part).any():
                others |= {first + int(np.nanargmin(part)), first + int(np.nanargmax(part))}
    measured = [number for number, place in enumerate(places) if _HELDOUT in texts[place]] if any_heldout else []
    others |= set(measured[:: max(1, len(measured) // STRETCHES)]) | set(measured[-1:])
    return set(edges[:-1]), others


def _number(text: bytes, key: bytes) -> float:
    """Return the number behind a key; NaN where there is none."""
    at = text.find(key)
    if at < 0:
        return np.nan
    begin = at + len(key)
    try:
        return float(text[begin : begin + 24].partition(b",")[0].rstrip(b"}"))
    except ValueError:
        return np.nan
