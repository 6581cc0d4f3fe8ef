"""What a task shows on the page of a run: plain data, which `sclds.report` draws."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """One figure."""

    text: str
    chance: str = ""
    """What chance gives, as text; empty where that says nothing."""
    share: float | None = None
    """The figure as a share of 1, for a bar; None draws none."""
    chance_share: float = 0.0
    """Where the bar marks chance."""


@dataclass(frozen=True)
class Section:
    """A table under a title."""

    title: str
    note: str
    """What the figures mean, a sentence or two; empty where the section before has said it."""
    columns: tuple[str, ...]
    """Over the figures; the first column of the table, the names of the rows, has no title."""
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    """Name and figures."""
