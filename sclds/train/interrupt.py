"""SIGTERM and Ctrl-C as a wish to stop after the current step."""

import signal
from types import FrameType
from typing import Any


class StopRequest:
    """Notes a stop signal instead of dying of it; the loop reads `requested` between steps.

    Launchers pass one Ctrl-C on as several signals, so repeats are taken as the same wish.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in self.SIGNALS:
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
