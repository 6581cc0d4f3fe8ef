"""Phases add up to the step, on whichever clock, and reading them waits for nothing."""

import time

import pytest
import torch

from sclds.machine.phase_clock import OTHER, PHASES, STAGES, WAITS, PhaseClock, clock_runs, marked, phase, shares_of

CPU = torch.device("cpu")


class Device:
    """A device's time line, on which an event lies where the device had been asked for so much work."""

    def __init__(self):
        self.asked = 0.0
        self.done = 0.0
        self.made = 0

    def event(self):
        self.made += 1
        return Event(self)


class Event:
    def __init__(self, device):
        self._device = device

    def record(self):
        self.at = self._device.asked

    def query(self):
        return self._device.done >= self.at

    def elapsed_time(self, end):
        assert self.query(), "reading would have waited for the device"
        assert end.query(), "reading would have waited for the device"
        return 1000 * (end.at - self.at)


def test_phases_take_their_time_out_of_those_around_them():
    device = Device()
    clock = PhaseClock(CPU, device.event)
    clock.begin()
    device.asked += 1
    with phase("data"):
        device.asked += 2
    with phase("forward"):
        device.asked += 4
        with phase("fusion"):
            device.asked += 8
            with phase("wait_parameters"):
                device.asked += 16
            device.asked += 32
        device.asked += 64
    clock.end()
    device.done = device.asked
    (step,) = clock.taken()
    assert step.phases == {OTHER: 1, "data": 2, "forward": 68, "fusion": 40, "wait_parameters": 16}
    assert step.stages == {OTHER: 1, "data": 2, "forward": 124}
    assert step.total == 127
    assert step.host.keys() == step.stages.keys()


def test_a_step_is_read_when_the_device_has_done_it_and_events_are_used_again():
    device = Device()
    clock = PhaseClock(CPU, device.event)
    for _ in range(2):
        clock.begin()
        with phase("backward"):
            device.asked += 5
        clock.end()
        assert clock.taken() == [], "the host is ahead of the device"
    device.done = 5
    assert [step.total for step in clock.taken()] == [5]
    made = device.made
    clock.begin()
    with phase("backward"):
        device.asked += 1
    clock.end()
    assert device.made == made
    device.done = device.asked
    assert [step.phases["backward"] for step in clock.taken()] == [5, 1]
    assert clock.taken() == []


def test_one_launch_of_several_phases_is_shared_by_their_work():
    device = Device()
    clock = PhaseClock(CPU, device.event)
    clock.begin()
    with phase(shares_of({"loss_contrastive": 3, "loss_mlsc": 1})):
        device.asked += 8
    clock.end()
    device.done = device.asked
    assert clock.taken()[0].phases == {OTHER: 0, "loss_contrastive": 6, "loss_mlsc": 2}
    assert shares_of({"a": 0, "b": 0}) == {"a": 0.5, "b": 0.5}


def test_on_a_cpu_the_hosts_clock_measures():
    clock = PhaseClock(CPU)
    clock.begin()
    marked("optimizer", time.sleep)(0.02)
    clock.end()
    (step,) = clock.taken()
    assert step.phases["optimizer"] >= 0.02
    assert step.host == step.stages
    assert step.total == pytest.approx(sum(step.phases.values()))


def test_a_fault_ends_its_phases_and_without_a_clock_nothing_is_kept():
    device = Device()
    clock = PhaseClock(CPU, device.event)
    clock.begin()
    with pytest.raises(ValueError, match="gone"), phase("forward"), phase("fusion"):
        raise ValueError("gone")
    device.asked += 3
    clock.end()
    device.done = device.asked
    assert clock.taken()[0].phases == {OTHER: 3, "forward": 0, "fusion": 0}
    made = device.made
    with phase("forward"):
        assert not clock_runs()
    clock.begin()
    with phase("forward"):
        clock.drop()
    assert clock.taken() == []
    assert not clock_runs()
    assert device.made <= made + 2


def test_names_stand_once():
    assert len(set(PHASES)) == len(PHASES)
    assert {*STAGES, *WAITS, OTHER} <= set(PHASES)
