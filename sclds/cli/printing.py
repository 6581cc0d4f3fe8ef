"""What commands print: tables that fit any width without cutting a word, and quantities in units of their size."""

import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sclds.run.terminal import behind, printable

_DURATIONS = ((1e-6, "µs", 1e-3), (1e-3, "ms", 1.0), (1.0, "s", 120.0), (60.0, "min", 7200.0), (3600.0, "h", 172800.0))
"""Seconds of a unit, its name, and the seconds from which the next one is taken."""
_PREFIXES = ("", "k", "M", "G", "T", "P", "E")


def duration(seconds: float) -> str:
    """Return a time in the unit of its size, from µs to days, with three digits."""
    for size, unit, end in _DURATIONS:
        if 0 < seconds < end * (1 - 5e-4):
            return f"{_three(seconds / size)} {unit}"
    return f"{_three(seconds / 86400)} days" if seconds else "0 s"


def amount(value: float, unit: str) -> str:
    """Return a quantity with the SI prefix of its size and three digits: `12.3 MB`, `178 GFLOP`."""
    power = 0
    while power < len(_PREFIXES) - 1 and abs(value) / 1000**power >= 999.5:
        power += 1
    return f"{_three(value / 1000**power) if power else f'{value:.3g}'} {_PREFIXES[power]}{unit}"


def _three(value: float) -> str:
    """Return a number with three digits, or all that stand before the point."""
    return f"{value:,.{max(0, 2 - len(str(int(abs(value) * (1 + 5e-4)))) + 1)}f}"


def say(text: str) -> None:
    """Tell how far a long command is, on standard error."""
    print(text, file=sys.stderr, flush=True)


class Sheet:
    """Standard output, as wide as the terminal, else as `COLUMNS` says, else 80."""

    def __init__(self) -> None:
        self.console = Console(file=behind(sys.stdout), highlight=False, width=shutil.get_terminal_size().columns)

    def text(self, text: str) -> None:
        """Print a paragraph; lines end between words, and a word that is longer than a line stays whole."""
        print(self._wrapped(text))

    def table(
        self,
        headings: Sequence[str],
        rows: Iterable[Sequence[str | Text]],
        title: str = "",
        right: bool = False,
        framed: bool = True,
    ) -> None:
        """Print a table; where its words do not fit beside each other, what each row says below each other.

        Args:
            headings: Of the columns; all empty for none.
            rows: A cell a column.
            title: Above the table.
            right: Whether the columns after the first are numbers, flush right.
            framed: Whether it has a frame.
        """
        cells = [[cell if isinstance(cell, Text) else Text(printable(cell)) for cell in row] for row in rows]
        columns = [[heading, *(row[i].plain for row in cells)] for i, heading in enumerate(headings)]
        frame = 3 * len(columns) + 1 if framed else 2 * len(columns) - 2
        widths = _widths(columns, self.console.width - frame)
        if title:
            self.text(title)
        if widths is None:
            for row in cells:
                self._record(headings, row)
            return
        table = Table(show_header=any(headings), pad_edge=framed, header_style="bold")
        if not framed:
            table.box = None
        for number, (heading, width) in enumerate(zip(headings, widths, strict=True)):
            table.add_column(heading, justify="right" if right and number else "left", width=width)
        for row in cells:
            table.add_row(*row)
        self.console.print(table)

    def _record(self, headings: Sequence[str], row: Sequence[Text]) -> None:
        """Print a row by itself: its first cell, and below it the others behind their headings."""
        print(self._wrapped(row[0].plain))
        for heading, cell in zip(headings[1:], row[1:], strict=True):
            if cell.plain:
                print(self._wrapped(f"{heading}: {cell.plain}" if heading else cell.plain, "  "))

    def _wrapped(self, text: str, indent: str = "") -> str:
        return "\n".join(
            textwrap.fill(
                line,
                self.console.width,
                initial_indent=indent,
                subsequent_indent=f"{indent}  " if indent else "",
                break_long_words=False,
                break_on_hyphens=False,
            )
            for line in text.split("\n")
        )


def _widths(columns: Sequence[Sequence[str]], room: int) -> list[int] | None:
    """Return how wide each column is, at least its longest word; None where these do not fit beside each other."""
    least = [max((cell_len(word) for cell in column for word in cell.split()), default=0) for column in columns]
    wanted = [max(cell_len(line) for cell in column for line in cell.split("\n")) for column in columns]
    if sum(least) > room:
        return None
    widths, spare = list(least), room - sum(least)
    # the narrowest wishes first: what they leave over goes to the columns of long sentences
    for left, number in enumerate(sorted(range(len(columns)), key=lambda i: wanted[i] - least[i])):
        more = min(wanted[number] - least[number], spare // (len(columns) - left))
        widths[number] += more
        spare -= more
    return widths
