"""The tables of held-out results on a terminal: the same that the page shows."""

from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sclds.evaluation.section import Cell, Section
from sclds.run.terminal import printable


def print_sections(console: Console, sections: Iterable[Section]) -> None:
    """Print each section as a table, its note below it."""
    for section in sections:
        table = Table(title=_plain(section.title), title_justify="left", caption_justify="left")
        table.caption = _plain(section.note) or None
        table.add_column("", overflow="fold")
        for column in section.columns:
            table.add_column(_plain(column), justify="right", overflow="fold")
        for name, cells in section.rows:
            table.add_row(_plain(name), *(_plain(_text(cell)) for cell in cells))
        console.print(table)


def _plain(text: str) -> str:
    return escape(printable(text))


def _text(cell: Cell) -> str:
    return f"{cell.text} ({cell.chance})" if cell.chance else cell.text
