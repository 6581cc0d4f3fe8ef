"""How far a long preparation is: a bar in a terminal, plain lines elsewhere; on standard error."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_SECONDS = 5.0
"""Between plain lines."""


@contextmanager
def counting(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Yield a function that advances the count.

    Args:
        what: What is being done, for the line.
        total: Where the count ends, as far as that is known.
    """
    console = Console(file=sys.stderr, soft_wrap=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    done, said = 0, time.monotonic()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)

        def advance(count: int) -> None:
            nonlocal done, said
            done += count
            bar.advance(task, count)
            if not console.is_terminal and (done == total or time.monotonic() > said + _SECONDS):
                said = time.monotonic()
                console.print(f"{what}: {done:,}" + (f" of {total:,}" if total else ""), markup=False)

        yield advance
