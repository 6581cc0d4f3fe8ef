"""Where a run's time went: every second of it has one part, over starts, faults and steps taken again."""

import pytest

from sclds.run.events import Event
from sclds.run.goodput import PARTS, Spent, goodput_of


def event(time, kind, step=None, spent=None, rank=0, **facts):
    return Event(time, "a", rank, step, kind, "", facts | ({} if spent is None else {"spent": spent}))


def spent(step, data=0.0, start=10.0, checkpoint=0.0):
    return {"step": step, "data": data, "start": start, "checkpoint": checkpoint, "evaluation": 0.0}


KILLED = [
    event(104, "start", age=4.0, before={}),
    event(110, "training", 0, spent(0.0)),
    event(150, "checkpoint", 10, spent(36.0, data=2.0, checkpoint=2.0)),
    event(155, "watchdog", 11, rank=1),
    # killed: its last line, of step 14, was found by the next start
    event(204, "start", age=4.0, before={"time": 170.0, "step": 14, "spent": spent(54.0, data=3.0, checkpoint=2.0)}),
    event(210, "training", 10, spent(0.0)),
    event(250, "checkpoint", 20, spent(39.0, checkpoint=1.0)),
    event(251, "finish", 20, spent(39.0, checkpoint=1.0)),
]
"""Two starts of 20 steps."""


def test_lost_steps_restarts_and_all_else_add_up():
    found = goodput_of(KILLED)
    assert found.seconds == pytest.approx(
        {
            **{"step": 36.0 + 39.0, "data": 3.0, "start": 20.0, "checkpoint": 3.0, "evaluation": 0.0},
            **{"lost": 18.0, "restart": 30.0, "other": 2.0},
        }
    )
    assert found.wall == pytest.approx(251 - 100)
    assert found.share == pytest.approx(75 / 151)
    assert set(found.seconds) == set(PARTS)


def test_going_back_inside_a_start_loses_the_steps_behind_the_checkpoint():
    lines = [
        event(100, "start", age=0.0),
        event(110, "training", 0, spent(0.0)),
        event(120, "checkpoint", 10, spent(10.0)),
        event(125, "spike", 15, spent(15.0)),
        event(125, "training", 10, spent(15.0)),
        event(135, "checkpoint", 20, spent(25.0)),
    ]
    assert goodput_of(lines).seconds["lost"] == pytest.approx(5.0)
    assert goodput_of(lines).seconds["step"] == pytest.approx(20.0)


@pytest.mark.parametrize("again", [5, 9, 10])
def test_an_event_within_a_step_leaves_the_rest_of_it_to_that_step(again):
    """A skipped step is noted before its time is counted, so that two marks may stand at one step."""
    lines = [
        event(100, "start", age=0.0),
        event(110, "training", 0, spent(0.0)),
        event(119, "skipped_step", 10, spent(9.0)),
        event(120, "checkpoint", 10, spent(10.0)),
        event(200, "start", age=0.0),
        event(210, "training", again, spent(0.0)),
    ]
    found = goodput_of(lines).seconds
    assert found["step"] + found["lost"] == pytest.approx(10.0)
    assert found["lost"] == pytest.approx({5: 5.5, 9: 1.9, 10: 0.0}[again])


def test_a_run_that_goes_back_into_the_middle_of_a_stretch_loses_its_share():
    lines = [*KILLED[:3], event(204, "start", age=4.0), event(210, "training", 5, spent(0.0))]
    assert goodput_of(lines).seconds["lost"] == pytest.approx(18.0)


@pytest.mark.parametrize("odd", [{"spent": 3}, {"spent": {"step": "x"}}, {"before": 3, "age": "old"}, {}])
def test_facts_of_another_form_are_nothing(odd):
    lines = [Event(100, "a", 0, None, "start", "", odd), Event(101, "a", 0, 1, "checkpoint", "", odd)]
    assert goodput_of(lines).wall == pytest.approx(1.0)
    assert goodput_of([event(1, "restart", rank=None)]) is None
    before = {"time": 101.0, "step": "14", "spent": spent(9.0)}
    again = [event(102, "start", age=1.0, before=before), event(103, "training", 1, spent(0.0))]
    assert goodput_of([*lines, *again]).seconds["step"] == 0.0


def test_what_a_start_has_spent_so_far():
    counted = Spent(age=5.0)
    counted.charge("step", 1.0)
    counted.all_so_far_to("start")
    assert counted.seconds()["start"] == pytest.approx(4.0, abs=0.5)
    assert counted.share() == pytest.approx(0.2, abs=0.02)
    assert Spent(5.0, goodput_of(KILLED)).share() == pytest.approx(75 / 156, abs=0.02)
