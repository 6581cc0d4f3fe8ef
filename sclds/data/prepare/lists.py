"""Lists as owners and downloaders write them: text of any Unicode encoding, its lines, tables, JSON.

Lines end in LF or CR LF and nothing else: captions hold U+0085, U+2028 and form feeds, at which `str.splitlines` would
cut them and shift every later row.
"""

import codecs
import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sclds.config.errors import DataError

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16's, which it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_PACKED = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_HEAD = 65536
_LONGEST_CELL = 100
"""Lines of a quoted cell; a quotation mark that is open for longer was never closed."""
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")

# One row of Panda-70M describes all clips of a video, which is more than the csv module's 128 KiB a cell.
csv.field_size_limit(1 << 30)


class Numbered(NamedTuple):
    """An entry of a list and its line, 0 if it has none; an entry that is none is a `ValueError` that says why."""

    line: int
    value: Any


def first_file(root: Path, names: Iterable[str]) -> Path:
    """Return the first of some files that exists below a folder; one of them does."""
    return next(root / name for name in names if (root / name).is_file())


def encoding_of(path: Path) -> str:
    """Return the encoding of a text file: what its byte order mark says, or where NULs lie, or else UTF-8.

    Raises:
        DataError: It cannot be read, or is compressed.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as fault:
        raise DataError(f"{path} cannot be read ({fault.strerror})") from fault
    packed = next((name for magic, name in _PACKED.items() if head.startswith(magic)), None)
    if packed is not None:
        raise DataError(f"{path} is compressed ({packed}): unpack it")
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if head.startswith(mark)), None)
    if encoding is None:
        odd, even, few = head[1::2].count(0), head[::2].count(0), len(head) // 8
        encoding = "utf-16-le" if odd > few > even else "utf-16-be" if even > few > odd else "utf-8"
    return encoding


def is_utf8(text: str) -> bool:
    """Say whether a text that `read_text` or `lines` gave was UTF-8 in its file."""
    return _ESCAPED_BYTE.search(text) is None


def read_text(path: Path) -> str:
    """Return a file's text; bytes that are not UTF-8 become surrogates, so that only what holds them is dropped.

    Raises:
        DataError: The file cannot be read, or is no text.
    """
    encoding = encoding_of(path)
    try:
        text = path.read_bytes().decode(encoding, _errors(encoding))
    except OSError as fault:
        raise DataError(f"{path} cannot be read ({fault.strerror})") from fault
    except UnicodeDecodeError as fault:
        raise DataError(f"{path} {_no_text(encoding, fault)}") from fault
    return text.lstrip("\ufeff")


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield number, from 1, and text of every line without its end; one that ends the file opens no further line.

    Raises:
        DataError: The file cannot be read, or is no text.
    """
    encoding, number = encoding_of(path), 0
    try:
        with path.open(encoding=encoding, errors=_errors(encoding), newline="\n") as file:
            for number, line in enumerate(file, 1):
                text = line.removesuffix("\n").removesuffix("\r")
                if number == 1 and "\r" in text and not line.endswith("\n"):
                    raise DataError(f"{path} has lines that end in CR alone: convert them to LF")
                yield number, text.lstrip("\ufeff") if number == 1 else text
    except OSError as fault:
        raise DataError(f"{path} cannot be read ({fault.strerror})") from fault
    except UnicodeDecodeError as fault:
        raise DataError(f"{path}, near line {number + 1}, {_no_text(encoding, fault)}") from fault


def _no_text(encoding: str, fault: UnicodeDecodeError) -> str:
    return f"looks like {encoding.upper()} but is not ({fault.reason}): convert it to UTF-8"


def _errors(encoding: str) -> str:
    return "surrogateescape" if encoding.startswith("utf-8") else "strict"


def line_count(path: Path) -> int:
    """Return about how many lines a file has, for progress only."""
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def table_rows(path: Path, delimiter: str = ",", quoting: bool = True) -> Iterator[Numbered]:
    """Yield the rows of a CSV or TSV file as lists of cells; [] for a blank line, a `ValueError` for what is no row.

    A quotation mark that is never closed costs its own row and none behind it.

    Args:
        path: The file.
        delimiter: What separates columns.
        quoting: Whether quotation marks hold a column together; if not they are text.

    Raises:
        DataError: The file cannot be read.
    """
    source = lines(path)
    waiting: list[tuple[int, str]] = []  # lines that were read ahead
    columns = 0
    while (first := waiting.pop(0) if waiting else next(source, None)) is not None:
        number, text = first
        if not text.strip():
            yield Numbered(number, [])
        elif not quoting or '"' not in text:
            cells = text.split(delimiter)
            columns = columns or len(cells)
            yield Numbered(number, cells)
        else:
            held, used = _quoted(text.replace("\r", " "), waiting, source, delimiter, columns)
            del waiting[:used]
            columns = columns or len(held or ())
            yield Numbered(number, ValueError("a quotation mark that is not closed") if held is None else held)


def _quoted(
    text: str, waiting: list[tuple[int, str]], source: Iterator[tuple[int, str]], delimiter: str, columns: int
) -> tuple[list[str] | None, int]:
    """Return the cells of a row with quotation marks, None if one is not closed, and how many more lines it takes.

    Args:
        text: Its first line.
        waiting: Lines behind it; filled up from `source` as far as need be.
        source: Gives further lines.
        delimiter: What separates columns.
        columns: Of the table, as far as they are known: a line inside a cell that has as many is a row by itself.
    """
    for used in range(_LONGEST_CELL):
        try:
            return next(csv.reader([text], delimiter=delimiter, strict=True)), used
        except csv.Error as fault:
            if "unexpected end" not in str(fault):
                return None, 0
        if used == len(waiting):
            line = next(source, None)
            if line is None:
                return None, 0
            waiting.append(line)
        added = waiting[used][1]
        if columns > 1 and added.count(delimiter) >= columns - 1:
            return None, 0
        text += "\n" + added.replace("\r", " ")
    return None, 0


def named_rows(path: Path, columns: Sequence[str], expected: str, delimiter: str = ",") -> Iterator[Numbered]:
    """Yield the rows of a table whose first line names its columns, as dictionaries; blank lines are passed over.

    Args:
        path: The file.
        columns: Those that it must have.
        expected: What the file is, for messages, such as "WebVid's CSV".
        delimiter: What separates columns.

    Raises:
        DataError: The file cannot be read, or its first line does not name the columns.
    """
    rows = table_rows(path, delimiter)
    first = next(rows, Numbered(1, [])).value
    header = [] if isinstance(first, ValueError) else [name.strip() for name in first]
    lacking = [name for name in columns if name not in header]
    if lacking:
        names = ", ".join(columns)
        raise DataError(
            f"{path} has no column {', '.join(lacking)}: expected {expected}, whose first line names {names}"
        )
    return _dictionaries(header, rows)


def _dictionaries(header: list[str], rows: Iterator[Numbered]) -> Iterator[Numbered]:
    for line, cells in rows:
        if isinstance(cells, ValueError):
            yield Numbered(line, cells)
        elif len(cells) == len(header):
            yield Numbered(line, dict(zip(header, cells, strict=True)))
        elif cells:
            yield Numbered(line, ValueError(f"{len(cells)} columns instead of {len(header)}"))


def read_json(path: Path, expected: str, *lists: str) -> Any:
    """Return a JSON object that holds some lists.

    Args:
        path: The file.
        expected: What the file is, for messages, such as "the Karpathy split of COCO".
        lists: Keys under which the object must have a list.

    Raises:
        DataError: The file is not JSON, or not of this form.
    """
    tree = parsed(read_text(path), path, expected)
    lacking = [name for name in lists if not isinstance(tree, dict) or not isinstance(tree.get(name), list)]
    if lacking:
        names = " and no ".join(repr(name) for name in lacking)
        raise DataError(f"{path} has no list {names}: expected {expected}")
    return tree


class Pairs(list[tuple[str, Any]]):
    """A JSON object as its pairs, in order, with every one of those that share a key."""


def parsed(text: str, path: Path, expected: str, pairs: bool = False) -> Any:
    """Return what a JSON text says.

    Args:
        text: The text.
        path: Its file, for messages.
        expected: What the file is, for messages.
        pairs: Whether objects are returned as `Pairs`.

    Raises:
        DataError: It is not JSON.
    """
    try:
        return json.loads(text, object_pairs_hook=Pairs if pairs else None)
    except (ValueError, RecursionError) as fault:
        raise DataError(f"{path} is not JSON ({fault}): expected {expected}; download it again") from fault


def json_entries(text: str, path: Path, expected: str) -> Iterator[Any]:
    """Yield the entries of a JSON array one at a time, for files whose objects would not fit into memory at once.

    Of several arrays one behind the other those of all.

    Raises:
        DataError: It is not an array, breaks off, or has something else behind its end.
    """
    decoder, blank = json.JSONDecoder(), re.compile(r"[\s,]*")
    at = text.find("[") + 1
    if not at or text[: at - 1].strip():
        raise DataError(f"{path} is not a JSON array: expected {expected}")
    while True:
        at = blank.match(text, at).end()  # type: ignore[union-attr]  # matches even nothing
        if text[at : at + 1] == "]":
            at = blank.match(text, at + 1).end()  # type: ignore[union-attr]
            if at == len(text):
                return
            if text[at] != "[":
                raise DataError(f"{path} goes on behind the end of its array, at character {at}: download it again")
            at += 1  # another array, as `cat` leaves it
            continue
        try:
            entry, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as fault:
            raise DataError(f"{path} is not JSON ({fault}): expected {expected}; download it again") from fault
        yield entry


def json_lines(path: Path, expected: str) -> Iterator[Numbered]:
    """Yield the entries of a file with one JSON object a line, a `ValueError` for a line that is not JSON.

    An array of the same objects is read as well, as tools write that re-save a list.

    Raises:
        DataError: The file cannot be read, or its first line is not JSON.
    """
    begun = False
    for number, text in lines(path):
        if not text.strip():
            continue
        first, begun = not begun, True
        if first and text.lstrip().startswith("["):
            yield from (Numbered(0, entry) for entry in json_entries(read_text(path), path, expected))
            return
        try:
            entry = json.loads(text)
        except (ValueError, RecursionError) as fault:
            if first:
                raise DataError(f"{path}, line {number} is not JSON ({fault}): expected {expected}") from fault
            entry = ValueError("a line that is not JSON")
        yield Numbered(number, entry)
