"""What a GPU reads out of DALI's memory is what DALI wrote there, though reads are late and the memory is used again.

A pipeline and streams that are made up stand for DALI and CUDA: work on a stream is done when somebody waits for it.
"""

import weakref
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from sclds.config import DataConfig
from sclds.config.schema import DatasetConfig
from sclds.data.media import handover
from sclds.data.media.encoded import Encoded
from sclds.data.media.handover import Handover
from sclds.data.media.inspection import inspect
from sclds.data.media.pipeline import DYNAMIC, IN_TURN, _definition, build_pipeline, feeds

from ..synthetic import picture

SIZE = 32
DATA = DataConfig(train=[DatasetConfig(name="none", shards="none")])


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


class Output:
    """Memory that is DALI's again when nobody holds it: then another decoder of this process writes into it."""

    def __init__(self):
        self.memory = np.zeros(2, np.float32)
        weakref.finalize(self, self.memory.fill, -1)

    def __dlpack__(self, **given):
        return self.memory.__dlpack__(**given)

    def __dlpack_device__(self):
        return self.memory.__dlpack_device__()


class Pipeline:
    """Writes the number of its run: each time into the `same` memory, into an `own` one, or `late`, on the stream that
    it is given.
    """

    def __init__(self, way: str):
        self.way, self.output, self.runs = way, Output(), 0

    def run(self, stream):
        self.runs += 1
        output, number = self.output if self.way == "same" else Output(), self.runs
        memory = output.memory
        if self.way == "late":
            stream.queue.append(lambda: memory.fill(number))
        else:
            memory.fill(number)
        return output


@pytest.fixture
def cuda(monkeypatch):
    made_up = Cuda()
    monkeypatch.setattr(handover, "cuda", made_up)
    return made_up


def three_runs(cuda, way):
    pipeline, hand_over = cuda.alive = Pipeline(way), Handover(0)
    found = [hand_over(pipeline.run, lambda pixels: Late(pixels, cuda.current)) for _ in range(3)]
    for event in cuda.default.waited:
        event.synchronize()
    return found


@pytest.mark.parametrize("way", ["same", "own", "late"])
def test_no_run_overwrites_what_is_not_read_yet(cuda, way):
    found = three_runs(cuda, way)
    assert [late.value for late in found] == [[1, 1], [2, 2], [3, 3]]
    assert len(cuda.default.waited) == 3, "who uses it waits on the device"
    assert all(late.kept_for == [cuda.default] for late in found)
    assert not cuda.default.queue, "nothing is queued behind training"


def test_the_made_up_device_shows_it_when_nobody_waits(cuda, monkeypatch):
    read = LateEvent.synchronize
    monkeypatch.setattr(LateEvent, "synchronize", lambda event: None)
    found = three_runs(cuda, "same")
    monkeypatch.setattr(LateEvent, "synchronize", read)
    cuda.default.waited[-1].synchronize()
    assert [late.value for late in found] == [[3, 3]] * 3


def test_the_made_up_device_shows_it_when_nobody_holds_the_output(cuda, monkeypatch):
    monkeypatch.setattr(Handover, "_output", property(lambda self: self.__dict__.pop("given"), give), raising=False)
    assert [late.value for late in three_runs(cuda, "own")] == [[-1, -1]] * 3


def give(hand_over, output):
    if output is not None:
        hand_over.__dict__["given"] = output


@pytest.mark.parametrize("source", ["image", "scaled"])
def test_the_executor_of_a_gpu_runs_on_the_cpu_and_leaves_outputs_alone_that_somebody_holds(source):
    """Of the definitions for a GPU only the executor can run without one."""
    data = DATA.model_copy(update={"randaugment_operations": 2})
    found = {}
    for name, executor in (("dynamic", DYNAMIC), ("in_turn", IN_TURN)):
        pipeline = _definition()(source, data, SIZE, batch_size=2, num_threads=1, device_id=None, **executor)
        held, copied = [], []
        for number in range(3):
            content = picture(number, "PNG", (SIZE, SIZE))
            sample = Encoded("image", content, inspect("image", content), np.zeros(1, np.int32))
            frames = content if source == "image" else np.full((1, SIZE, SIZE, 3), 60 * number, np.uint8)
            (output,) = pipeline.run(None, **feeds(source, data, SIZE, [sample], [frames]))
            held.append(output)
            copied.append(np.array(output[0]))
        found[name] = copied
        if name == "dynamic":
            assert all(np.array_equal(np.array(o[0]), c) for o, c in zip(held, copied, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(found["dynamic"], found["in_turn"], strict=True))


@pytest.mark.parametrize(("device", "dynamic"), [("mixed", True), ("cpu", False)])
def test_pipelines_take_the_dynamic_executor_on_a_gpu(monkeypatch, device, dynamic):
    given = {}

    class Built:
        def build(self):
            given["built"] = True

    def defined(*arguments, **options):
        given.update(options)
        return Built()

    monkeypatch.setattr("sclds.data.media.pipeline._definition", lambda: defined)
    data = DATA.model_copy(update={"device": device})
    build_pipeline("image", data, SIZE, 2, 0 if dynamic else None)
    assert given["built"]
    assert given.get("exec_dynamic", False) is dynamic
    assert given["prefetch_queue_depth"] == 1, "DALI takes inputs of a run only so"
