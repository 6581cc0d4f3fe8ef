"""What a reader of a public data set yields: one record an image, pair of images or video, or why there is none.

A reader only reads annotations; images and videos are opened by whoever writes the shards. A fault of one entry drops
that entry, a fault of a whole file is an error.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from sclds.data.prepare.lists import Numbered

_LONGEST_KEY = 80
_FAULTS = (KeyError, TypeError, ValueError, IndexError, AttributeError)


@dataclass(frozen=True, slots=True)
class Record:
    """One sample to be.

    Attributes:
        key: Name inside its shard, unique in the data set, without a dot.
        files: (role, path) of its images or its video; the role is "" where there is one file.
        captions: What describes it, or what is asked or said about it, as the list has it; what is no text, or
            empty, is left out later and counted.
        fields: What else its JSON member holds.
        left_out: For each part that the reader itself could not use, such as a question, a clause that says why.
        place: Where it is listed, "FILE, line N"; "" where the list has no lines.
    """

    key: str
    files: tuple[tuple[str, str], ...]
    captions: tuple[Any, ...]
    fields: dict[str, Any] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    place: str = ""


@dataclass(frozen=True, slots=True)
class Dropped:
    """An entry that cannot become a sample; the reason is a clause about it, the place where it is listed."""

    key: str
    file: str
    reason: str
    place: str = ""


Made = Record | Dropped | None | list[Record | Dropped]


@dataclass(frozen=True)
class Records:
    """Records in the order of the annotations.

    Attributes:
        items: The records, and the entries without one.
        count: How many they are, as far as that is known beforehand.
        notes: What was decided in reading, such as which split or numbering, a clause each.
        variant: Which list was read, where a split has several of different lengths.
    """

    items: Iterator[Record | Dropped]
    count: int | None = None
    notes: tuple[str, ...] = ()
    variant: str = ""


def key_of(text: str) -> str:
    """Return a key out of any name: dots would end it, slashes would be folders; long names end in a hash."""
    key = re.sub(r"[^0-9A-Za-z_-]+", "-", text)
    if len(key) <= _LONGEST_KEY and key.strip("-"):
        return key
    return f"{key[: _LONGEST_KEY - 17]}-{blake2b(text.encode('utf-8', 'surrogatepass'), digest_size=8).hexdigest()}"


def each(path: Path, entries: Iterable[Any], make: Callable[[Any], Made]) -> Iterator[Record | Dropped]:
    """Yield what `make` gives for each entry of an annotation file; an entry of another form is dropped, not fatal.

    Args:
        path: The annotation file, for messages.
        entries: Its entries in order; of `Numbered` ones the value is used, and the line is noted.
        make: Turns one entry into a record, or several; None leaves it out, as of another split.
    """
    for number, entry in enumerate(entries):
        place, value = "", entry
        if isinstance(entry, Numbered):
            place, value = f"{path}, line {entry.line}" if entry.line else "", entry.value
        made: Made
        try:
            if isinstance(value, ValueError):
                raise value
            made = make(value)
        except _FAULTS as fault:
            made = Dropped(f"entry {number}", str(path), f"its entry is not of the expected form ({_said(fault)})")
        several = made if isinstance(made, list) else [] if made is None else [made]
        yield from (replace(one, place=place) for one in several) if place else several


def parts(values: Any, name: str) -> tuple[Any, ...]:
    """Return what stands under a name in each of some objects, and texts that stand there without an object.

    What is neither, or has no such name, gives None, so that it is counted.

    Args:
        values: A list of objects; anything else has no parts.
        name: Such as "phrase".
    """
    if not isinstance(values, list):
        return ()
    return tuple(value.get(name) if isinstance(value, dict) else value for value in values)


def _said(fault: Exception) -> str:
    return f"{fault.args[0]!r} is missing" if isinstance(fault, KeyError) else str(fault)
