"""TensorBoard event files, of which no fault ends a run: it is said once, and nothing is written there any more."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter


class Board:
    """Writes to a folder that `tensorboard --logdir` shows; nothing is served from here.

    Args:
        folder: Where.
        purge_step: TensorBoard drops what lies at this step or after it.
        say: Is told, once, that the files cannot be written.
    """

    def __init__(self, folder: Path, purge_step: int, say: Callable[[str], None]):
        self._folder, self._say = folder, say
        self._writer: Any = None
        self._before = threading.excepthook
        threading.excepthook = self._thread_ended
        self._try(lambda: setattr(self, "_writer", SummaryWriter(str(folder), purge_step=purge_step)))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Add numbers by name."""
        self._try(lambda: self._add(values, step))

    def _add(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            if self._writer is not None:
                self._writer.add_scalar(name, value, step)

    def picture(self, name: str, pixels: Tensor, text: str, step: int) -> None:
        """Add a (3, H, W) image in [0, 1] and what belongs to it, as Markdown."""
        self._try(lambda: self._writer and self._writer.add_image(name, pixels, step))
        self._try(lambda: self._writer and self._writer.add_text(name, text, step))

    def text(self, name: str, markdown: str) -> None:
        """Add a text that is of no step."""
        self._try(lambda: self._writer and self._writer.add_text(name, markdown, 0))

    def close(self) -> None:
        """Write what is left."""
        self._try(lambda: self._writer and self._writer.close())
        self._writer = None
        if threading.excepthook == self._thread_ended:
            threading.excepthook = self._before

    def _thread_ended(self, fault: threading.ExceptHookArgs) -> None:
        """Print no stack of TensorBoard's own thread for what the next call says in a sentence."""
        if not (isinstance(fault.exc_value, OSError) and type(fault.thread).__module__.startswith("tensorboard.")):
            self._before(fault)

    def _try(self, write: Callable[[], Any]) -> None:
        try:
            write()
        except OSError as fault:  # its own thread's too, which it passes on at the next call
            self._writer = None
            self._say(
                f"{self._folder} cannot be written ({fault.strerror or fault}): the run goes on without TensorBoard, "
                f"and metrics.jsonl has the figures"
            )
