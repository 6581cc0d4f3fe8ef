"""Bytes by what a collective of W processes brings to each, and waits that are measured, not made."""

from types import SimpleNamespace

import pytest
import torch

from sclds.machine.phase_clock import PhaseClock
from sclds.train.messages import COLLECTIVES, Messages, covered, watch_collectives

CPU = torch.device("cpu")
WORLD = 4


class Work:
    waited = 0

    def wait(self):
        self.waited += 1
        return "there"

    def is_completed(self):
        return True


class Backend:
    """DeepSpeed's backend as it is called: collectives return a work where they are asynchronous."""

    def __init__(self):
        self.called = []
        for name in COLLECTIVES:
            setattr(self, name, lambda *args, _name=name, **kwargs: self._call(_name, *args, **kwargs))

    def _call(self, name, *args, async_op=False, **kwargs):
        self.called.append(name)
        return Work() if async_op or (len(args) > 3 and args[3]) else None


@pytest.fixture
def watched():
    backend, messages, clock = Backend(), Messages(CPU), PhaseClock(CPU)
    watch_collectives(backend, messages, lambda group: WORLD if group is None else group)
    yield SimpleNamespace(backend=backend, messages=messages, clock=clock)
    clock.drop()


def test_bytes_are_those_that_a_process_receives(watched):
    whole, part = torch.zeros(8 * WORLD), torch.zeros(8)
    watched.clock.begin()
    watched.backend.all_gather_into_tensor(output_tensor=whole, input_tensor=part)
    watched.backend.all_gather(tensor_list=[part] * WORLD, tensor=part)
    assert watched.messages.taken().received == {"features": 0, "parameters": 2 * 3 * 8 * 4, "gradients": 0}
    watched.backend.reduce_scatter_tensor(output_tensor=part, input_tensor=whole)
    assert watched.messages.taken().received["gradients"] == 3 * 8 * 4
    watched.backend.all_reduce(whole, "sum", None, False)
    assert watched.messages.taken().received["gradients"] == 2 * 3 * 8 * 4, "a ring reduces, and gathers"
    watched.backend.all_reduce(whole.bfloat16(), op="sum", group=2)
    assert watched.messages.taken().received["gradients"] == 32 * 2, "of two processes"


def test_a_wait_is_a_phase_of_the_step_and_waits_once(watched):
    watched.clock.begin()
    work = watched.backend.all_gather_into_tensor(torch.zeros(WORLD), torch.zeros(1), async_op=True)
    assert work.is_completed()
    assert work.wait() == "there"
    assert work._work.waited == 1
    watched.backend.reduce_scatter_tensor(torch.zeros(1), torch.zeros(WORLD))
    watched.clock.end()
    (step,) = watched.clock.taken()
    assert {"wait_parameters", "reduce"} <= step.phases.keys()
    traffic = watched.messages.taken()
    assert traffic.seconds >= step.phases["wait_parameters"] + step.phases["reduce"] > 0
    assert traffic.seconds <= step.total
    assert watched.messages.taken().seconds == 0


def test_between_steps_nothing_is_kept(watched):
    work = watched.backend.all_reduce(torch.zeros(3), "sum", None, True)
    assert isinstance(work, Work)
    assert watched.backend.called == ["all_reduce"]
    assert watched.messages.taken().received == dict.fromkeys(("features", "parameters", "gradients"), 0)


def test_messages_that_travel_together_count_once():
    assert covered([(5, 6), (0, 2), (1, 3), (1.5, 2)]) == 4
    assert covered([]) == 0


class Event:
    """CUDA's as it is: who asks for the time between two of which one is not done gets an error."""

    def __init__(self, at, done=True):
        self.at, self.done = at, done

    def query(self):
        return self.done

    def elapsed_time(self, other):
        if not (self.done and other.done):
            raise RuntimeError("device not ready")
        return 1000 * (other.at - self.at)


def test_messages_of_streams_that_are_not_as_far_are_read_later():
    """One stream's message may be there while another stream has not come to where an earlier one was sent."""
    messages = Messages(torch.device("cuda"))
    slow, other = Event(0.0, done=False), Event(1.0)
    messages._first = slow
    messages._unread = [(slow, Event(5.0)), (other, Event(2.0))]
    assert messages.taken().seconds == 0
    slow.done, other.done = True, False
    assert messages.taken().seconds == 5.0, "nothing is told of the other"
    other.done = True
    assert messages.taken().seconds == 1.0
    assert messages._unread == []
    assert messages._first is None
