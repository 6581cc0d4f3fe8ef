"""Pixels out of DALI's memory on a GPU into tensors of their own, in an order in which nothing is overwritten unread.

DALI's output is written on the device after Python goes on, and so is what reads it queued only. Therefore reads have
a stream of their own, which training does not hold up and on which DALI hands its output over; the output is held, and
the next run waits, until the last read is done; and whoever uses what was read waits for it on the device.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, cuda


class Handover:
    """Runs pipelines one after the other and copies what each puts out. For one thread.

    Args:
        device: Number of the CUDA device.
    """

    def __init__(self, device: int):
        self._device = device
        self._stream: Any = cuda.Stream(device)
        self._read: Any = None
        self._output: Any = None

    def __call__(self, run: Callable[[Any], Any], copy: Callable[[Tensor], Tensor]) -> Tensor:
        """Run a pipeline and copy its output.

        Args:
            run: Runs it, and returns its output on the stream that it is given, in memory that is DALI's again when
                nobody holds the output.
            copy: Makes of it a tensor with memory of its own, by kernels on the current stream.

        Returns:
            The copy, ready for the stream that is current for the caller.
        """
        if self._read is not None:
            self._read.synchronize()
        with cuda.stream(self._stream):
            # torch's view would give the output up when it is copied from, which is before the copy is made
            self._output = run(self._stream)
            found = copy(torch.from_dlpack(self._output))
            self._read = self._stream.record_event()
        consumer: Any = cuda.current_stream(self._device)
        consumer.wait_event(self._read)
        found.record_stream(consumer)  # its memory is not given away while that stream still reads it
        return found
