"""Text that others wrote, on a terminal: captions, names of tars and hosts may hold characters that command it.

An escape sequence moves the cursor, renames the window, or hides what was said before. Control characters are shown as
escapes instead, except the ends of lines and tabs.
"""

import re
from typing import Any, TextIO

_COMMANDS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    r"""Return a text with control characters as `\x1b`."""
    return _COMMANDS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def behind(stream: Any) -> Any:
    """Return what rich is to write to: the stream that a `PlainStream` or a progress display stands before."""
    while (inner := getattr(stream, "rich_proxied_file", None)) is not None:
        stream = inner
    return stream


class PlainStream:
    """An output that shows control characters as escapes; anything else is left to the stream behind it.

    A carriage return in front of what is written is let through: that is how progress is counted in place. Rich writes
    to the stream behind, by a name that it looks for, since its own colors are such characters: what it is given has to
    be printable by itself.

    Args:
        stream: The output.
    """

    def __init__(self, stream: TextIO):
        self.rich_proxied_file = stream

    def write(self, text: str) -> int:
        """Write a text."""
        start = "\r" if text.startswith("\r") else ""
        self.rich_proxied_file.write(start + printable(text[len(start) :]))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)
