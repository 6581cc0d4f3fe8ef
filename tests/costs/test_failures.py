"""Goodput where parts fail: the closed form is what a simulation finds, and no interval near the best one is better."""

import pytest

from sclds.costs.failures import (
    Costs,
    daly_interval,
    expected_goodput,
    mean_seconds_between_failures,
    simulated_goodput,
    young_interval,
)

COSTS = Costs(stall=5, restart=120, detection=10)


@pytest.mark.parametrize("gpus", [64, 1024, 16384])
def test_simulation_and_closed_form_agree(gpus):
    mean = mean_seconds_between_failures(gpus)
    for interval in (young_interval(COSTS.stall, mean), 300.0, 3000.0):
        wanted = expected_goodput(interval, COSTS, mean)
        assert simulated_goodput(interval, COSTS, mean) == pytest.approx(wanted, abs=0.02 * (1 - wanted) + 1e-4)


@pytest.mark.parametrize("gpus", [64, 1024, 16384])
def test_no_interval_beside_the_best_one_is_better(gpus):
    mean = mean_seconds_between_failures(gpus)
    best = daly_interval(COSTS.stall, mean)
    found = expected_goodput(best, COSTS, mean)
    for factor in (0.7, 0.9, 1.1, 1.4):
        assert expected_goodput(factor * best, COSTS, mean) < found
    assert expected_goodput(young_interval(COSTS.stall, mean), COSTS, mean) <= found


def test_the_published_time_to_failure_is_that_of_1024_gpus():
    assert mean_seconds_between_failures(1024) == 7.9 * 3600
    assert mean_seconds_between_failures(16384) == pytest.approx(7.9 * 3600 / 16)
    assert daly_interval(100.0, 40.0) == 40.0, "where saving takes longer than failures are apart"
