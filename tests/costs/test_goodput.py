"""What checkpoints and failures take of a planned run."""

import pytest

from sclds.costs.clusters import cluster_of, known_kinds
from sclds.costs.failures import daly_interval
from sclds.costs.goodput import WRITE_BYTES, checkpoint_bytes, goodput_of

KINDS = known_kinds()


def test_a_checkpoint_holds_weights_and_moments_in_fp32_and_the_weights_in_bf16():
    assert checkpoint_bytes(1000, "fp32") == 12_000
    assert checkpoint_bytes(1000, "bf16") == 14_000


def test_a_job_of_1024_gpus_fails_as_published_and_no_interval_beats_the_best():
    cluster = cluster_of(KINDS, "h100", 1024)
    found = goodput_of(cluster, 10**12, interval=1800)
    assert found.between_failures == pytest.approx(7.9 * 3600)
    assert found.stall == pytest.approx(10**12 / 1024 / KINDS["h100"].host_link)
    assert found.best_interval == pytest.approx(daly_interval(found.stall, found.between_failures))
    for interval in (found.best_interval / 3, found.best_interval * 3):
        assert goodput_of(cluster, 10**12, interval).share < found.best_share
    assert found.simulated_share == pytest.approx(found.best_share, abs=2e-3)


def test_checkpoints_come_no_faster_than_they_are_written():
    cluster = cluster_of(KINDS, "h100", 8)
    size = 10**14
    found = goodput_of(cluster, size, interval=1800)
    assert daly_interval(found.stall, found.between_failures) < found.best_interval
    assert found.best_interval == found.writing == pytest.approx(size / WRITE_BYTES)
