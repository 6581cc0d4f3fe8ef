"""`events.jsonl`: lines that are whole whoever writes them, read so that a damaged one costs itself alone."""

import json
import threading

import pytest

from sclds.run.events import KINDS, Events, read_events


def test_an_event_says_when_where_and_why(tmp_path):
    events = Events(tmp_path / "run" / "events.jsonl", 3, now=lambda: 1_700_000_000.25)
    events.step = 7
    events.write("watchdog", "rank 3 waited", seconds=20.5)
    events.write("restart", "once more", step=4)
    first, second = read_events(tmp_path / "run" / "events.jsonl")
    assert (first.time, first.rank, first.step, first.kind) == (1_700_000_000.25, 3, 7, "watchdog")
    assert (first.cause, first.facts, first.date) == (
        "rank 3 waited",
        {"seconds": 20.5},
        "2023-11-14T22:13:20.250+00:00",
    )
    assert second.step == 4
    assert first.host


def test_many_writers_leave_whole_lines(tmp_path):
    def write(rank):
        events = Events(tmp_path / "events.jsonl", rank)
        for step in range(50):
            events.write("skipped_step", "x" * 200 * rank, step)

    threads = [threading.Thread(target=write, args=(rank,)) for rank in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    problems = []
    found = read_events(tmp_path / "events.jsonl", problems)
    assert problems == []
    assert sorted((event.rank, event.step) for event in found) == [(r, s) for r in range(6) for s in range(50)]


DAMAGED = [
    *(b"", b"{", b"[1]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"time": 1}'),
    *(b'{"time": "1", "host": "a", "rank": 0, "step": 1, "kind": "stop", "cause": ""}',),
    *(b'{"time": 1, "host": "a", "rank": true, "step": 1, "kind": "stop", "cause": ""}',),
    *(b'{"time": 1, "host": "a", "rank": 0, "step": 1, "kind": "stop", "cause": "", "facts": 3}',),
    *(b'{"time": NaN, "host": "a", "rank": 0, "step": 1, "kind": "stop", "cause": ""}',),
]


@pytest.mark.parametrize("line", DAMAGED)
def test_a_damaged_line_costs_itself_alone(tmp_path, line):
    file = tmp_path / "events.jsonl"
    Events(file, 0).write("start", "before")
    with file.open("ab") as end:
        end.write(line)  # a kill left it without an end
    Events(file, 0).write("stop", "after")
    problems = []
    assert [event.cause for event in read_events(file, problems)] == ["before", "after"]
    assert problems == (["events.jsonl: 1 damaged line is left out"] if line else [])


def test_what_a_newer_version_writes_is_kept(tmp_path):
    file = tmp_path / "events.jsonl"
    event = {"time": 1, "host": "a", "rank": 0, "step": None, "kind": "eclipse", "cause": "the moon", "facts": {"n": 1}}
    file.write_text(json.dumps(event))
    [found] = read_events(file)
    assert found.kind not in KINDS
    assert found.facts == {"n": 1}


def test_an_event_that_cannot_be_written_ends_no_run(tmp_path):
    (tmp_path / "run").write_text("a file where the folder should be")
    events = Events(tmp_path / "run" / "events.jsonl", 0)
    events.write("start", "x")
    assert "cannot be written" in events.unwritten
