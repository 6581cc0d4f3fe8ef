"""The state that a checkpoint holds, copied into memory while the next step computes: only its update waits.

Between two updates weights and the optimizer's state are read and never written (`sclds.train.corruption` holds runs to
that), so that the copy has the whole of the next forward and backward. On a GPU it travels on a stream of its own.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from copy import copy
from pathlib import Path
from typing import Any

import torch
from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine
from torch import Tensor
from torch.serialization import get_crc32_options, set_crc32_options


class MemoryCheckpointEngine(TorchCheckpointEngine):
    """What DeepSpeed saves, as the bytes that its own engine would write into a file, in memory that is used again.

    `save` takes note, and `copy` copies.
    """

    def __init__(self) -> None:
        super().__init__()
        self._memory: list[int] = []
        self._noted: list[tuple[Any, Path]] = []
        self.files: list[tuple[Path, int]] = []
        """Path and bytes of what was copied since `clear`, in the order of `descriptors`."""

    def save(self, state_dict: Any, path: str) -> None:
        """Note what would be a file: its tensors themselves, and all else as it is now."""
        self._noted.append((_fixed(state_dict), Path(path)))

    def copy(self) -> None:
        """Copy what was noted, and forget the tensors.

        Raises:
            OSError: There is no memory for it.
        """
        while self._noted:
            state_dict, path = self._noted.pop(0)
            if len(self.files) == len(self._memory):
                self._memory.append(os.memfd_create("sclds-checkpoint"))
            descriptor = self._memory[len(self.files)]
            os.lseek(descriptor, 0, os.SEEK_SET)
            file: Any = _Memory(descriptor)  # as much of a file as torch asks of one
            try:
                with _without_crc32():
                    torch.save(state_dict, file)
            except RuntimeError as fault:  # torch writes its end all the same, and complains of what is missing there
                raise file.fault or fault from fault
            self.files.append((path, os.lseek(descriptor, 0, os.SEEK_CUR)))

    def descriptors(self) -> list[int]:
        """Return the memory of `files`."""
        return self._memory[: len(self.files)]

    def clear(self) -> None:
        """Take the memory for the next files."""
        self.files.clear()
        self._noted.clear()

    def close(self) -> None:
        """Give the memory back."""
        for descriptor in self._memory:
            os.close(descriptor)
        self._memory.clear()
        self.clear()


class _Memory:
    """What torch writes into; knows the fault of memory for which something is missing there.

    Args:
        descriptor: Of the memory.
    """

    def __init__(self, descriptor: int):
        self._descriptor = descriptor
        self.fault: OSError | None = None

    def write(self, content: Any) -> int:
        """Write all of it, which a plain write does to 2 GiB at most."""
        left = memoryview(content)
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError as fault:
            self.fault = fault
            raise
        return len(content)

    def flush(self) -> None:
        """Nothing is held back."""


def _fixed(value: Any) -> Any:
    """Return a value whose containers nobody else holds, with the same tensors in it."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, dict):
        kept = copy(value)  # what torch hangs on a module's state goes with it
        kept.update({key: _fixed(one) for key, one in value.items()})
        return kept
    if type(value) in (list, tuple):
        return type(value)(_fixed(one) for one in value)
    return value


@contextlib.contextmanager
def _without_crc32() -> Iterator[None]:
    """Leave torch's checksums out, which take three times as long as the copy; the manifest has SHA-256."""
    before = get_crc32_options()
    set_crc32_options(False)
    try:
        yield
    finally:
        set_crc32_options(before)


class Copy:
    """Work on the state as it is now, in a thread of its own and on a GPU in a stream of its own.

    Args:
        work: Returns whether the state is sound; leaves the interpreter to others for most of its time.
        device: Of the state.
    """

    def __init__(self, work: Callable[[], bool], device: torch.device):
        self._work, self._device = work, device
        self._sound = False
        self._error: Exception | None = None
        self._computed = torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None
        self._thread = threading.Thread(target=self._run, name="copy", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether it is under way."""
        return self._thread.is_alive()

    def result(self) -> bool:
        """Wait for the end, and return or raise what the work did."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._sound

    def leave(self) -> None:
        """Wait for the end, whatever comes of it."""
        self._thread.join()

    def _run(self) -> None:
        try:
            if self._computed is None:
                self._sound = self._work()
                return
            own = torch.cuda.Stream(self._device)
            own.wait_event(self._computed)
            with torch.cuda.device(self._device), torch.cuda.stream(own):
                self._sound = self._work()
        except Exception as error:  # for whoever waits
            self._error = error


class UpdateAfterCopy:
    """DeepSpeed's engine, whose update waits until the state before it is copied; all else is the engine's.

    Args:
        engine: DeepSpeed's.
        wait: Waits for the copy, where there is one.
    """

    def __init__(self, engine: Any, wait: Callable[[], None]):
        self._engine, self._wait = engine, wait

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def __call__(self, *inputs: Any) -> Any:
        """Run the engine's forward."""
        return self._engine(*inputs)

    def step(self) -> None:
        """Run the engine's step, which at the end of an accumulation writes what is copied."""
        if self._engine.is_gradient_accumulation_boundary():
            self._wait()
        self._engine.step()
