"""What the sections of our pages are put together from: titles with anchors, notes, lists, tables, facts, tiles."""

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple


class Tile(NamedTuple):
    """A headline figure: what it is, its value, and what it is to be held against."""

    label: str
    value: str
    note: str = ""


def section(title: str, content: str) -> str:
    """Return a section, or nothing where it has no content."""
    anchor = re.sub(r"\W+", "-", title.lower()).strip("-")
    return f'<section id="{anchor}"><h2>{escape(title)}</h2>{content}</section>' if content else ""


def contents(body: str) -> str:
    """Return links to the sections of a page."""
    found = re.findall(r'<section id="([^"]+)"><h2>(.*?)</h2>', body)
    links = "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title in found)
    return f'<nav aria-label="Sections">{links}</nav>' if len(found) > 2 else ""


def note(text: str) -> str:
    """Return a sentence below a title."""
    return f'<p class="note">{escape(text)}</p>' if text else ""


def listed(sentences: Sequence[str]) -> str:
    """Return sentences that call for attention; nothing where there is none."""
    return f'<ul class="card warn">{"".join(f"<li>{escape(one)}</li>" for one in sentences)}</ul>' if sentences else ""


def tiles(shown: Iterable[Tile]) -> str:
    """Return headline figures side by side; nothing where there is none."""
    cards = "".join(
        f'<div class="card tile"><span>{escape(tile.label)}</span><b>{escape(tile.value)}</b>'
        f"<small>{escape(tile.note)}</small></div>"
        for tile in shown
    )
    return f'<div class="tiles">{cards}</div>' if cards else ""


def table(label: str, columns: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]], kind: str = "") -> str:
    """Return a table; what is too wide scrolls in a box of its own, by keys too, and on a phone rows become blocks.

    Args:
        label: What it holds, for readers that cannot see it.
        columns: Over the values; the column of names has no title.
        rows: Name and values.
        kind: `words` where values are words, which stand at the left and wrap; `wrap` where figures wrap too.
    """
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in ("", *columns))
    body = "".join(
        f"<tr><td>{escape(name)}</td>"
        + "".join(
            f'<td data-label="{escape(column)}">{escape(value)}</td>' if value else "<td></td>"
            for column, value in zip(columns, values, strict=True)
        )
        + "</tr>"
        for name, values in rows
    )
    return scrolling(label, f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>", kind)


def scrolling(label: str, content: str, kind: str = "") -> str:
    """Return the box of a table."""
    of_kind = f' class="{kind}"' if kind else ""
    return (
        f'<div class="card scroll" role="region" aria-label="{escape(label)}" tabindex="0">'
        f"<table{of_kind}>{content}</table></div>"
    )


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """Return names and their values, a row each."""
    return "".join(f"<div><dt>{escape(what)}</dt><dd>{escape(value)}</dd></div>" for what, value in rows)


def folded(summary: str, content: str, opened: bool = False) -> str:
    """Return what opens by a click; nothing where there is nothing."""
    return (
        f"<details{' open' if opened else ''}><summary>{escape(summary)}</summary>{content}</details>"
        if content
        else ""
    )
