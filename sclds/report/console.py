"""The tables of held-out results on a terminal: the same that the page shows."""

from collections.abc import Iterable

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sclds.evaluation.section import Cell, Section
from sclds.run.terminal import printable

FRAME = 3
"""Characters that a column takes beside its text; the table's right edge takes one more."""


def print_sections(console: Console, sections: Iterable[Section]) -> None:
    """Print each section as a table, its note below it."""
    for section in sections:
        table = Table(title=_plain(section.title), title_justify="left", caption_justify="left")
        table.caption = _plain(section.note) or None
        names, numbers = _widths(section, console.width)
        table.add_column("", overflow="fold", width=names)
        for column, width in zip(section.columns, numbers, strict=True):
            table.add_column(_plain(column), justify="right", overflow="fold", width=width)
        for name, cells in section.rows:
            table.add_row(_plain(name), *(_plain(_text(cell)) for cell in cells))
        console.print(table)


def _widths(section: Section, width: int) -> tuple[int, list[int]]:
    """Return the width of the names and of each column of numbers, in characters.

    Where a row does not fit on a line, numbers get what their longest word needs and names the rest: left to
    themselves, the columns shrink alike, and break names inside words beside numbers with room to spare.
    """
    names = ["", *(name for name, _ in section.rows)]
    columns = [[column] for column in section.columns]
    for _, cells in section.rows:
        for column, cell in zip(columns, cells, strict=True):
            column.append(_text(cell))
    longest, widths = max(map(_length, names)), [max(map(_length, column)) for column in columns]
    room = width - FRAME * (1 + len(columns)) - 1
    if longest + sum(widths) > room:
        widths = [max(_length(word) for text in column for word in text.split() or [""]) for column in columns]
    return max(1, min(longest, room - sum(widths))), widths


def _length(text: str) -> int:
    return cell_len(printable(text))


def _plain(text: str) -> str:
    return escape(printable(text))


def _text(cell: Cell) -> str:
    return f"{cell.text} ({cell.chance})" if cell.chance else cell.text
