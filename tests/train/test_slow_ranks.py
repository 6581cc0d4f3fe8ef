"""A rank that is slow in its own work is named with host and phase; those that wait for it are not."""

from types import SimpleNamespace

import pytest

from sclds.run.events import Events, read_events
from sclds.run.folder import RunFolder
from sclds.train import loop
from sclds.train.journal import Journal
from sclds.train.measures import RankTimes
from sclds.train.slow_ranks import SlowRanks


def times(seconds, hosts=("a", "a", "b", "b"), phase="backward"):
    """Return ranks that differ in one phase."""
    return RankTimes(hosts, {"forward": [1.0] * len(hosts), phase: list(seconds)})


def test_a_rank_is_named_once_with_host_and_phase():
    slow = SlowRanks(1.3)
    assert slow.add(times([2, 2, 2, 3])) is None, "once is a hiccup"
    told = slow.add(times([2, 2, 2, 3]))
    assert told.startswith("Slow: rank 3 on host b: 4 s of work a step where the middle rank needs 3 s (1.33 times")
    assert "most of it in backward" in told
    assert slow.add(times([2, 2, 2, 3])) is None
    assert slow.add(times([2, 2, 2, 2])) is None
    slow.add(times([2, 2, 2, 3]))
    assert slow.add(times([2, 2, 2, 3])) == told, "it had caught up in between"


def test_below_the_limit_nothing_is_said():
    slow = SlowRanks(1.5)
    assert not any(slow.add(times([2, 2, 2, 3])) for _ in range(5))


def test_a_whole_host_is_named_as_one():
    slow, hosts = SlowRanks(1.3), ("a", "a", "a", "b", "b")
    slow.add(times([1, 1, 1, 3, 3.1], hosts))
    assert slow.add(times([1, 1, 1, 3, 3.1], hosts)).startswith("Slow: all 2 ranks of host b: 4.1 s")


def test_slow_ranks_of_other_hosts_are_counted():
    slow, hosts = SlowRanks(1.3), ("a", "b", "c", "d", "e")
    slow.add(times([1, 1, 1, 3, 4], hosts))
    assert slow.add(times([1, 1, 1, 3, 4], hosts)).startswith("Slow: rank 4 on host e, and 1 ranks of other hosts: 5 s")


@pytest.mark.parametrize(("seconds", "rank"), [([1, 3], 1), ([3, 1], 0)])
def test_of_two_ranks_the_slower_one_is_seen(seconds, rank):
    ranks = times(seconds, ("a", "b"))
    assert ranks.median == 2
    assert ranks.summary() == {
        "min": 2,
        "median": 2,
        "max": 4,
        "rank": rank,
        "host": "ab"[rank],
        "phase": "backward",
    }


def test_the_run_says_it_and_writes_it_down(tmp_path):
    said, folder = [], RunFolder(tmp_path)
    journal = Journal(Events(folder.events, 0), folder, 0, said.append)
    run = SimpleNamespace(health=SimpleNamespace(add=lambda line: ()), slow_ranks=SlowRanks(1.3), journal=journal)
    ranks = times([2, 2, 2, 3])
    for _ in range(3):
        loop.Run._judge(run, {"ranks": ranks.summary()}, SimpleNamespace(ranks=ranks))
    loop.Run._judge(run, None, SimpleNamespace(ranks=ranks))
    assert [sentence.partition(":")[0] for sentence in said] == ["Slow"]
    [event] = [event for event in read_events(folder.events) if event.kind == "slow_rank"]
    assert event.cause == said[0]
    assert (event.facts["rank"], event.facts["host"], event.facts["phase"]) == (3, "b", "backward")
