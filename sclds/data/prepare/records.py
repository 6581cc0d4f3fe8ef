"""What a reader of a public data set yields: one record an image, pair of images or video, or why there is none.

A reader only reads annotations; images and videos are opened by whoever writes the shards. A fault of one entry drops
that entry, a fault of a whole file is an error.
"""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from sclds.config.errors import DataError

_LONGEST_KEY = 80
_FAULTS = (KeyError, TypeError, ValueError, IndexError, AttributeError)


@dataclass(frozen=True, slots=True)
class Record:
    """One sample to be.

    Attributes:
        key: Name inside its shard, unique in the data set, without a dot.
        files: (role, path) of its images or its video; the role is "" where there is one file.
        captions: What describes it, or what is asked or said about it; white space is cleaned later.
        fields: What else its JSON member holds.
    """

    key: str
    files: tuple[tuple[str, str], ...]
    captions: tuple[str, ...]
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Dropped:
    """An entry that cannot become a sample; the reason is a clause about it."""

    key: str
    file: str
    reason: str


@dataclass(frozen=True)
class Records:
    """Records in the order of the annotations; `count` is how many, as far as that is known beforehand."""

    items: Iterator[Record | Dropped]
    count: int | None = None


def key_of(text: str) -> str:
    """Return a key out of any name: dots would end it, slashes would be folders; long names end in a hash."""
    key = re.sub(r"[^0-9A-Za-z_-]+", "-", text)
    if len(key) <= _LONGEST_KEY and key.strip("-"):
        return key
    return f"{key[: _LONGEST_KEY - 17]}-{blake2b(text.encode('utf-8', 'surrogatepass'), digest_size=8).hexdigest()}"


def each(
    path: Path, entries: Iterable[Any], make: Callable[[Any], Record | Dropped | None]
) -> Iterator[Record | Dropped]:
    """Yield what `make` gives for each entry of an annotation file; an entry of another form is dropped, not fatal.

    Args:
        path: The annotation file, for messages.
        entries: Its entries in order.
        make: Turns one entry into a record; None leaves it out, as of another split.
    """
    for number, entry in enumerate(entries):
        try:
            made = make(entry)
        except _FAULTS as fault:
            made = Dropped(f"entry {number}", str(path), f"its entry is not of the expected form ({_said(fault)})")
        if made is not None:
            yield made


def _said(fault: Exception) -> str:
    return f"{fault.args[0]!r} is missing" if isinstance(fault, KeyError) else str(fault)


def read_text(path: Path) -> str:
    """Return a file's text; bytes that are not UTF-8 become surrogates, so that only what holds them is dropped.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as fault:
        raise DataError(f"{path} cannot be read ({fault.strerror})") from fault


def read_json(path: Path, expected: str, *lists: str) -> Any:
    """Return a JSON object that holds some lists.

    Args:
        path: The file.
        expected: What the file is, for messages, such as "the Karpathy split of COCO".
        lists: Keys under which the object must have a list.

    Raises:
        DataError: The file is not JSON, or not of this form.
    """
    text = read_text(path)
    try:
        tree = json.loads(text)
    except ValueError as fault:
        raise DataError(f"{path} is not JSON ({fault}): expected {expected}; download it again") from fault
    lacking = [name for name in lists if not isinstance(tree, dict) or not isinstance(tree.get(name), list)]
    if lacking:
        names = " and no ".join(repr(name) for name in lacking)
        raise DataError(f"{path} has no list {names}: expected {expected}")
    return tree


def json_entries(text: str, path: Path, expected: str) -> Iterator[Any]:
    """Yield the entries of a JSON array one at a time, for files whose objects would not fit into memory at once.

    Raises:
        DataError: It is not an array, or breaks off.
    """
    decoder, blank = json.JSONDecoder(), re.compile(r"[\s,]*")
    at = text.find("[") + 1
    if not at or text[: at - 1].strip():
        raise DataError(f"{path} is not a JSON array: expected {expected}")
    while True:
        at = blank.match(text, at).end()  # type: ignore[union-attr]  # matches even nothing
        if text[at : at + 1] == "]":
            return
        try:
            entry, at = decoder.raw_decode(text, at)
        except ValueError as fault:
            raise DataError(f"{path} is not JSON ({fault}): expected {expected}; download it again") from fault
        yield entry


def line_count(path: Path) -> int:
    """Return the lines of a file, for progress only."""
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def table_rows(path: Path, delimiter: str = ",", quoting: bool = True) -> Iterator[list[str]]:
    """Yield the rows of a CSV or TSV file; [] for a row that is none.

    Args:
        path: The file.
        delimiter: What separates columns.
        quoting: Whether quotation marks hold a column together; if not they are text.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            rows = csv.reader(file, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE)
            while True:
                try:
                    yield next(rows)
                except StopIteration:
                    return
                except csv.Error:
                    yield []
    except OSError as fault:
        raise DataError(f"{path} cannot be read ({fault.strerror})") from fault
