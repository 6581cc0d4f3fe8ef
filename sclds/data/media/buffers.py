"""Memory of batches, used again once nobody holds the batch: fresh pages cost more than what is written to them."""

import weakref
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Buffers:
    """Gives out float32 tensors; each returns by itself when the last tensor that shares its memory is gone.

    With a CUDA device they are pinned, and torch's own pool of pinned memory does the same.
    """

    def __init__(self) -> None:
        self._free: list[NDArray[np.float32]] = []
        self._pinned = torch.cuda.is_available()
        self._largest = 0

    def take(self, rows: int, columns: int) -> Tensor:
        """Return a tensor (rows, columns) of undefined content."""
        if self._pinned:
            return torch.empty((rows, columns), pin_memory=True)
        count = rows * columns
        self._largest = max(self._largest, count)
        while self._free:
            memory = self._free.pop()
            if len(memory) >= count:
                break
        else:  # too small ones are dropped, so that all grow to the largest batch
            memory = np.empty(self._largest, np.float32)
        part: Any = memory[:count]
        weakref.finalize(part, self._free.append, memory).atexit = False
        return torch.from_numpy(part).view(rows, columns)
