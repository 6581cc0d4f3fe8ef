import pytest

from sclds.config import ScheduleConfig
from sclds.train.schedule import learning_rate_factor


def test_rises_to_one_and_falls_to_zero():
    schedule = ScheduleConfig(steps=100, warmup_share=0.1)
    assert learning_rate_factor(0, schedule) == 0
    assert learning_rate_factor(5, schedule) == pytest.approx(0.5)
    assert learning_rate_factor(10, schedule) == 1
    assert learning_rate_factor(55, schedule) == pytest.approx(0.5)
    assert learning_rate_factor(100, schedule) == 0


def test_no_warm_up_starts_at_the_peak():
    assert learning_rate_factor(0, ScheduleConfig(steps=10, warmup_share=0)) == 1


@pytest.mark.parametrize("share", [0, 0.3, 1])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_stays_between_zero_and_one(steps, share):
    factors = [learning_rate_factor(step, ScheduleConfig(steps=steps, warmup_share=share)) for step in range(steps + 1)]
    assert all(0 <= factor <= 1 for factor in factors)


def test_a_schedule_of_one_step_that_warms_up_in_part_of_it_ends_at_zero():
    schedule = ScheduleConfig(steps=1, warmup_share=0)
    assert [learning_rate_factor(step, schedule) for step in (0, 1)] == [1, 0]
    assert learning_rate_factor(1, ScheduleConfig(steps=2, warmup_share=0.5)) == 1
