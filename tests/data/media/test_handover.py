"""What a GPU reads out of DALI's memory is what DALI wrote there, though reads are late and the memory is used again.

A pipeline and streams that are made up stand for DALI and CUDA: work on a stream is done when somebody waits for it.
"""

from contextlib import contextmanager

import numpy as np
import pytest
import torch

from sclds.data.media import handover
from sclds.data.media.handover import Handover


class LateStream:
    """Does what is queued only when it has to."""

    def __init__(self, device: int = 0):
        self.queue: list = []
        self.waited: list = []

    def record_event(self):
        return LateEvent(self)

    def wait_event(self, event):
        self.waited.append(event)


class LateEvent:
    def __init__(self, stream):
        self.stream, self.count = stream, len(stream.queue)

    def synchronize(self):
        for work in self.stream.queue[: self.count]:
            work()
        del self.stream.queue[: self.count]


class Late:
    """A tensor whose content is read when the stream gets to it."""

    def __init__(self, pixels: torch.Tensor, stream: LateStream):
        self.value, self.kept_for = None, []
        stream.queue.append(lambda: setattr(self, "value", pixels.clone().tolist()))

    def record_stream(self, stream):
        self.kept_for.append(stream)


class Cuda:
    """Of `torch.cuda` what handing over takes."""

    Stream = LateStream

    def __init__(self):
        self.default = self.current = LateStream()

    def current_stream(self, device):
        return self.current

    @contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream
        yield
        self.current = before


class Pipeline:
    """Writes the number of its run into the same memory each time."""

    def __init__(self):
        self.memory, self.runs = np.zeros(2, np.float32), 0

    def run(self):
        self.runs += 1
        self.memory[:] = self.runs
        return self.memory


@pytest.fixture
def cuda(monkeypatch):
    made_up = Cuda()
    monkeypatch.setattr(handover, "cuda", made_up)
    return made_up


def three_runs(cuda):
    pipeline, hand_over = Pipeline(), Handover(0)
    found = [hand_over(pipeline.run, lambda pixels: Late(pixels, cuda.current)) for _ in range(3)]
    for event in cuda.default.waited:
        event.synchronize()
    return found


def test_no_run_overwrites_what_is_not_read_yet(cuda):
    found = three_runs(cuda)
    assert [late.value for late in found] == [[1, 1], [2, 2], [3, 3]]
    assert len(cuda.default.waited) == 3, "who uses it waits on the device"
    assert all(late.kept_for == [cuda.default] for late in found)
    assert not cuda.default.queue, "nothing is queued behind training"


def test_the_made_up_device_shows_it_when_nobody_waits(cuda, monkeypatch):
    read = LateEvent.synchronize
    monkeypatch.setattr(LateEvent, "synchronize", lambda event: None)
    found = three_runs(cuda)
    monkeypatch.setattr(LateEvent, "synchronize", read)
    cuda.default.waited[-1].synchronize()
    assert [late.value for late in found] == [[3, 3]] * 3
