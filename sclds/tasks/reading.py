"""Entries of an annotation as examples; one of another form than expected leaves the others of its image."""

import re
from collections.abc import Callable
from typing import Any, TypeGuard

from sclds.data.captions import clean_caption
from sclds.tasks.definition import Example, UnusableError

FAULTS = (KeyError, TypeError, ValueError, AttributeError)
"""What reading an annotation of another form raises."""
_HALF = re.compile("[\ud800-\udfff]")


def each_of(record: Any, name: str, make: Callable[[Any], Example | UnusableError]) -> list[Example | UnusableError]:
    """Return what is made of every entry under `name`, or why it cannot be used.

    Raises:
        ValueError: There is no list of entries.
    """
    if not isinstance(record, dict) or not isinstance(record.get(name), list):
        raise ValueError(f"it has no list of {name!r}")
    found: list[Example | UnusableError] = []
    for entry in record[name]:
        try:
            if not isinstance(entry, dict):
                raise ValueError("no JSON object")
            found.append(make(entry))
        except FAULTS as fault:
            found.append(UnusableError(f"one of its {name} is not of the expected form ({said(fault)})"))
    return found


def text_in(entry: dict[str, Any], name: str) -> str:
    """Return a question or statement as captions are cleaned.

    Raises:
        KeyError, ValueError: There is none.
    """
    text = clean_caption(entry[name]) if isinstance(entry[name], str) else ""
    if not text:
        raise ValueError(f"{name!r} is no text")
    return text


def texts_in(entry: dict[str, Any], name: str) -> list[str]:
    """Return a list of texts, some perhaps blank; an empty one where there is none.

    Raises:
        ValueError: Something else stands there.
    """
    value = entry.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(map(is_text, value)):
        raise ValueError(f"{name!r} is no list of texts")
    return value


def id_in(entry: dict[str, Any], name: str) -> str:
    """Return the number or text by which an entry is known.

    Raises:
        KeyError, ValueError: There is none.
    """
    value = entry[name]
    if not isinstance(value, int) and not (is_text(value) and value):
        raise ValueError(f"{name!r} is neither a number nor a text")
    return str(value)


def is_text(value: Any) -> TypeGuard[str]:
    """Return whether something is a text that can be written: JSON may hold half of a character."""
    return isinstance(value, str) and _HALF.search(value) is None


def said(fault: Exception) -> str:
    """Return as a clause what reading an annotation has raised."""
    return f"{fault.args[0]!r} is missing" if isinstance(fault, KeyError) else str(fault)
