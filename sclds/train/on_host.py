"""DeepSpeed's launcher of one host's processes, as `python -m sclds.train.on_host …`: who is told to stop may save.

DeepSpeed's own kills what it started 30 s after it was told to end it, which is too short for many a checkpoint. Where
a process has failed, the others have nothing to save, and DeepSpeed's time stands.
"""

import signal
from types import FrameType
from typing import Any

import psutil
from deepspeed.launcher import launch

from sclds.train.launcher import stop_seconds

FAILED_SECONDS = 30.0
"""DeepSpeed's own patience."""


class Stop:
    """Whether this process was told to stop, and how long the run's processes then have."""

    told = False

    def handle(self, number: int, handler: Any) -> Any:
        """Set a handler of a signal, before which it is noted that one came."""

        def noted(received: int, frame: FrameType | None) -> None:
            self.told = True
            handler(received, frame)

        return _set_handler(number, noted if callable(handler) else handler)

    def end(self, number: int) -> None:
        """End a process and those below it, and kill what is left of them after the time that they have."""
        top = psutil.Process(number)
        tree = [*top.children(recursive=True), top]
        for one in tree:
            if one.is_running():
                one.terminate()
        _, alive = psutil.wait_procs(tree, timeout=stop_seconds() if self.told else FAILED_SECONDS)
        for one in alive:
            one.kill()


_set_handler = signal.signal


def main() -> None:
    """Launch as the words of this process say."""
    stop = Stop()
    launch.terminate_process_tree = stop.end  # nothing else runs in this process
    launch.signal.signal = stop.handle
    launch.main()


if __name__ == "__main__":
    main()
