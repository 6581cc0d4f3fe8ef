"""Tables of captions and addresses, as owners offer them and as tools write them again.

Quotation marks are text in the owners' own. Tools that save a table again put them around a caption that holds one, or
a line end, and add columns of their own; what shows that beyond doubt is read so, the rest is asked for.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from sclds.config.errors import DataError
from sclds.data.prepare.lists import Numbered, lines

_URL = re.compile(r"\s*[A-Za-z][0-9A-Za-z+.-]*://\S")
_OPEN = re.compile(r'(?:^|\t)"(?:[^"]|"")*$')
"""A line whose last quotation mark opens a cell and is not closed."""
_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_LONGEST_CAPTION = 100  # lines
_JUDGED = 1000  # rows by which the columns are judged
CAPTION_NAMES = ("caption", "captions", "text", "title")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a list; the address is "" where there is none.

    Attributes:
        caption: As it stands there.
        url: The address.
        opens: The row opens a quotation mark, at which other readers go on into the rows behind it.
    """

    caption: Any
    url: str
    opens: bool = False


class _Columns(NamedTuple):
    """Where things stand in a row.

    Attributes:
        url_first: Addresses come before captions.
        several: Columns of a table that names them all; 0 where there are captions and addresses alone.
        caption: Number of the captions' column in such a table.
    """

    url_first: bool
    several: int = 0
    caption: int = 0


def is_url(text: Any) -> bool:
    """Say whether a value is an address."""
    return isinstance(text, str) and _URL.match(text) is not None


def address_table(path: Path, url_first: bool) -> Iterator[Numbered]:
    """Yield the rows of a TSV of captions and addresses, None for a blank line.

    Addresses come first or last, as the first row shows, and a caption may hold tabs; of more columns the first line
    has to say which holds the captions.

    Args:
        path: The table.
        url_first: Where addresses come if no row shows it.

    Raises:
        DataError: It cannot be read, or has several columns and does not name them.
    """
    columns = _columns(path, url_first)
    for line, cells, opens in _cells(path):
        yield Numbered(line, _row(cells, columns, opens) if cells else None)


def names_columns(text: Any) -> bool:
    """Say whether a row without an address names columns, as in "caption, tab, url"."""
    named = [cell.strip().lower() for cell in str(text).split("\t")]
    return len(named) > 1 or named[0] in CAPTION_NAMES


def _row(cells: list[str], columns: _Columns, opens: bool) -> Row:
    addresses = [k for k, cell in enumerate(cells) if is_url(cell)]
    if columns.several and len(cells) == columns.several:
        found = [k for k in addresses if k != columns.caption]
        return Row(cells[columns.caption], cells[found[0]].strip() if found else "", opens)
    if not addresses or (columns.url_first and addresses[0] != 0):
        return Row("\t".join(cells), "", opens)
    if columns.url_first:
        return Row("\t".join(cells[1:]), cells[0].strip(), opens)
    return Row("\t".join(cells[: addresses[-1]]), cells[addresses[-1]].strip(), opens)


def _columns(path: Path, url_first: bool) -> _Columns:
    """Judge a table by its first rows.

    Raises:
        DataError: It has several columns and does not name that of the captions.
    """
    rows = [cells for _, cells, _ in islice(_cells(path), _JUDGED) if cells]
    showing = next((cells for cells in rows if len(cells) > 1 and sum(map(is_url, cells)) == 1), None)
    if showing is not None:
        url_first = is_url(showing[0])
    header = bool(rows) and not any(map(is_url, rows[0]))
    body = rows[1:] if header else rows
    counts = {len(cells) for cells in body}
    count = next(iter(counts)) if len(counts) == 1 and len(body) > 1 else 0
    if count <= 2:  # a caption with a tab in it has more cells than others
        return _Columns(url_first)
    named = [cell.strip().lower() for cell in rows[0]] if header else []
    captions = [k for k, name in enumerate(named) if name in CAPTION_NAMES]
    if len(named) != count or not captions:
        raise DataError(
            f"{path} has {count} columns, and its first line does not say which of them holds the captions: give it a "
            f"first line that names them all, with tabs between, such as 'caption', 'url', 'score'"
        )
    return _Columns(url_first, count, captions[0])


def _cells(path: Path) -> Iterator[tuple[int, list[str], bool]]:
    """Yield line, cells and whether a quotation mark is left open, of each row; no cells for a blank line."""
    for line, text in _rows(path):
        if not text.strip():
            yield line, [], False
        elif "\n" in text:
            yield line, _quoted(text) or [], False
        else:
            yield line, [_plain(cell) for cell in text.split("\t")], _opens(text)


def _rows(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines, those joined to one row between which a caption in quotation marks goes on.

    They are if the first has no address yet, so that it is no row, and the row that closes the marks has one.
    """
    held: list[tuple[int, str]] = []
    for number, text in lines(path):
        if not held and not (_opens(text) and not _has_url(text)):
            yield number, text
            continue
        held.append((number, text))
        joined = "\n".join(part for _, part in held)
        if len(held) > 1 and _has_url(text) and _quoted(joined):
            yield held[0][0], joined
            held = []
        elif len(held) > 1 and (_has_url(text) or not _opens(joined) or len(held) > _LONGEST_CAPTION):
            yield from held
            held = []
    yield from held


def _quoted(text: str) -> list[str] | None:
    """Return the cells of a row as a program writes it, None for one that no program has written so."""
    try:
        return next(csv.reader([text.replace("\r", " ")], delimiter="\t", strict=True))
    except csv.Error:
        return None


def _opens(text: str) -> bool:
    """Say whether a row opens a quotation mark without closing it."""
    return '"' in text and _OPEN.search(text) is not None


def _plain(cell: str) -> str:
    """Return what a cell says; one in quotation marks that doubles those inside was written so by a program."""
    quoted = '""' in cell[1:-1] and _QUOTED.fullmatch(cell) is not None
    return cell[1:-1].replace('""', '"') if quoted else cell


def _has_url(text: str) -> bool:
    return any(map(is_url, text.split("\t")))
