"""What a run writes down of itself while it runs: events, each said where a person sees it, and seconds by part."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sclds.run.events import Events, Kind, read_events
from sclds.run.folder import RunFolder
from sclds.run.goodput import Spent, goodput_of
from sclds.run.metrics import read_metrics
from sclds.run.processes import age


class Journal:
    """Events and seconds of one start; every rank has one, rank 0 writes what all of them see.

    Args:
        events: Of the run.
        folder: The run's.
        rank: Of this process.
        say: Prints a sentence, on rank 0.
    """

    def __init__(self, events: Events, folder: RunFolder, rank: int, say: Callable[[str], None]):
        self._events, self._rank, self._say = events, rank, say
        own_age = age()
        if rank:
            self.spent = Spent(own_age)
            return
        problems: list[str] = []
        earlier = read_events(folder.events, problems)
        for problem in problems:
            say(problem)
        lines = read_metrics(folder.metrics)
        newest = max(lines, key=lambda line: line.get("time") or 0.0, default={})
        last_sign = {key: newest.get(key) for key in ("time", "step", "spent")}
        start = events.write("start", "a process begins", age=round(own_age, 3), before=last_sign)
        self.spent = Spent(own_age, goodput_of([*earlier, start]))

    def at(self, step: int) -> None:
        """Take note of the optimizer steps done."""
        self._events.step = step

    def note(self, kind: Kind, cause: str, **facts: Any) -> None:
        """Write an event down, with the seconds spent so far."""
        if self._rank == 0:
            self._events.write(kind, cause, spent=self.spent.seconds(), **facts)

    def tell(self, kind: Kind, sentence: str, **facts: Any) -> None:
        """Say a sentence, and write it down."""
        self._say(sentence)
        self.note(kind, sentence, **facts)

    def teller(self, kind: Kind) -> Callable[[str], None]:
        """Return what says sentences and writes them down."""
        return lambda sentence: self.tell(kind, sentence)

    @contextmanager
    def spending(self, part: str) -> Iterator[None]:
        """Count the seconds of a block to a part of the run."""
        begun = time.perf_counter()
        yield
        self.spent.charge(part, time.perf_counter() - begun)
