"""How far something long is: a bar in a terminal, plain lines elsewhere; on standard error."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Advance = Callable[[int], None]
"""Is told how many more are done."""
_SECONDS = 5.0
"""Between plain lines."""


@contextmanager
def counting(what: str, total: int | None) -> Iterator[Advance]:
    """Yield a function that advances the count.

    Args:
        what: What is being done, for the line.
        total: Where the count ends, as far as that is known; it need not be exact.
    """
    console = Console(file=sys.stderr, soft_wrap=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    done, told = 0, time.monotonic()

    def tell() -> None:
        if not console.is_terminal:
            console.print(f"{what}: {done:,}" + (f" of {total:,}" if total else ""), markup=False)

    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)

        def advance(count: int) -> None:
            nonlocal done, told
            done += count
            bar.advance(task, count)
            if time.monotonic() > told + _SECONDS:
                told = time.monotonic()
                tell()

        yield advance
    tell()
