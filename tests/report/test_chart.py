"""Charts as data: no spike is lost, means are those of even lines, and a long run is not parsed whole."""

import json
import math
import random

import numpy as np
import pytest

from sclds.report import sampled
from sclds.report.chart import Chart, Level, Mark, Series, log_ticks, shown, thinned
from sclds.report.charts import figure, stacked_bar
from sclds.run.metrics import parse_line, read_metrics


def test_a_thinned_curve_has_few_points_and_every_spike():
    draw = random.Random(0)
    values = [draw.random() for _ in range(100_000)]
    values[54_321], values[54_322] = 50.0, -50.0
    kept = thinned(values)
    assert len(kept) <= 4 * 150
    assert {0, 54_321, 54_322, 99_999} <= set(kept)
    assert kept == sorted(set(kept))
    assert thinned(values[:600]) == list(range(600))


def test_means_are_taken_over_even_places_alone():
    """Between them stand the extremes of each stretch, which would pull a mean of all towards themselves."""
    points = [(0, 1.0), (1, 100.0), (2, 1.0), (3, -50.0), (4, 1.0)]
    assert Series.of("", points, 1.0, frozenset({0, 2, 4})).means == (1.0,) * 5
    assert Series.of("", points, 1.0).means != (1.0,) * 5
    assert Series.of("", [], 1.0).means == ()


@pytest.fixture(scope="module")
def long_run(tmp_path_factory):
    path = tmp_path_factory.mktemp("long") / "metrics.jsonl"
    draw = random.Random(0)
    lines = []
    for step in range(1, 9001):
        loss = {"itm": draw.random(), "total": 5 + draw.random()}
        seconds = {"total": 99.0}
        line = {"step": step, "loss": loss, "grad_norm": draw.random(), "samples_per_second": 100.0, "seconds": seconds}
        lines.append(line)
    lines[4321]["loss"]["total"] = 500.0
    for number, rate in ((5000, 1.0), (5003, 30.0), (5004, 20.0), (5005, 30.0)):  # two stalls in one stretch
        lines[number]["samples_per_second"] = rate
    lines[6000]["grad_norm"] = None
    lines[7000]["heldout/a/total"] = 2.0
    text = [json.dumps(line) for line in lines]
    text.insert(100, json.dumps(lines[50] | {"grad_norm": 7.0}))  # a step that was taken again: the later line counts
    text[300] = "{damaged"
    text[500] = json.dumps({"lr": 0.1, **lines[499]})  # as another version may write it
    path.write_text("\n".join(text) + '\n{"step": 9001, "lo')
    return path, lines


def test_a_long_run_is_read_by_its_extremes(long_run, monkeypatch):
    path, lines = long_run
    parsed = []
    whole = sampled.parse_line
    monkeypatch.setattr(sampled, "parse_line", lambda text: parsed.append(1) or whole(text))
    problems = []
    found = sampled.sample_metrics(path, problems)
    assert len(parsed) <= 7 * sampled.STRETCHES + 20, "operations, not seconds"
    assert (found.logged, len(found.even)) == (8999, sampled.STRETCHES)
    by_step = {line["step"]: line for line in found.lines}
    assert by_step[4322]["loss"]["total"] == 500.0
    assert set(range(5001, 5008)) - {5003} <= set(by_step), "each stall's first, slowest and last, and the one after"
    assert 7001 in by_step
    assert 9000 in by_step
    assert by_step.get(51, {"grad_norm": 7.0})["grad_norm"] == 7.0
    assert list(by_step) == sorted(by_step)
    assert problems == [
        "metrics.jsonl: 2 damaged lines are left out: 301, 9002; lines that are not drawn were not looked into"
    ]
    assert all(lines[step - 1] == line for step, line in by_step.items() if step not in (51, 500))


def test_of_very_many_stalls_it_is_said_that_not_all_are_shown():
    rates, problems = np.tile([100.0, 100.0, 1.0], 1000), []
    shown = sampled._stalled(rates, "metrics.jsonl", problems)
    assert len(shown) == 2 * sampled.STRETCHES
    assert problems == [f"metrics.jsonl: of 1,000 stalls the {sampled.STRETCHES} slowest are surely shown"]
    assert sampled._stalled(np.array([np.nan, np.nan]), "", []) == set()
    assert sampled._stalled(np.array([9.0, 9.0, 1.0, np.nan]), "", []) == {2, 3}


def test_a_line_is_read_as_pythons_parser_reads_it():
    draw = random.Random(0)
    for _ in range(2000):
        number = draw.uniform(-1, 1) * 10 ** draw.randint(-300, 300)
        text = json.dumps({"step": 1, "time": number, "loss": {"total": math.nan}})
        found = parse_line(text.encode())
        assert found["time"] == number, "to the last bit"
        assert math.isnan(found["loss"]["total"])
    assert parse_line(b'{"step": 1, "ranks": {"host": "\\ud800"}}') == {"step": 1, "ranks": {"host": "\ud800"}}
    assert parse_line(b'{"step": 1, "step": 2}') == {"step": 2}
    assert parse_line(b"[" * 100_000) is None
    assert parse_line(b'{"step": 1, "odd": 1' + b"0" * 30 + b"}") == {"step": 1, "odd": 10**30}


def test_a_short_run_is_read_whole(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step, "loss": {"itm": 1.0}}) + "\n" for step in range(50)))
    found = sampled.sample_metrics(path, [])
    assert (found.lines, found.even) == (read_metrics(path), frozenset())
    assert sampled.sample_metrics(tmp_path / "none", []).lines == []


def test_a_chart_carries_its_numbers_and_says_its_marks():
    series = Series.of("a<b", [(1, 1.0), (10, 4.0)])
    marks = (Mark("restart", 5, "restart 1"), Mark("checkpoint", 9, "checkpoint"))
    text = figure(Chart("Rate", (series,), (Level("peak", 5.0),), marks, wide=True))
    assert text.count("<svg") == 2
    numbers = json.loads(text.split('<script type="application/json">')[1].split("</script>")[0])
    assert numbers["series"] == [{"name": "a<b", "class": "line0", "x": [1, 10], "y": [1.0, 4.0]}]
    assert numbers["marks"] == [[5, "restart 1"], [9, "checkpoint"]]
    assert "a<b" not in text, "no name closes the page's script"
    assert 'class="mark restart"' in text
    assert "; peak: 5; restart 1; checkpoint" in text


def test_a_curve_of_one_place_or_one_value_has_axes():
    for points in ([(5, 1.0), (5, 2.0)], [(1, 3.0), (2, 3.0)], [(1, 0.0), (2, 0.0)]):
        for log in (False, True):
            text = figure(Chart("a", (Series.of("", points),), log_x=log))
            assert "nan" not in text.lower()
            assert "inf" not in text.lower()
    assert log_ticks(1.0, 1.0)
    assert all(math.isfinite(tick) for tick in log_ticks(1e-3, 1e6))


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.355, "%", "35.5 %"),
        (5.1e10, "B", "51 GB"),
        (12345.6, "", "12,346"),
        (0.1234, "s", "0.123 s"),
        (3, "B", "3 B"),
    ],
)
def test_values_are_shown_as_people_read_them(value, unit, text):
    assert shown(value, unit) == text


def test_a_bar_says_its_parts():
    text = stacked_bar([("data", "Data <1>", 1.0), ("forward", "Forward", 3.0), ("other", "None", 0.0)])
    assert 'aria-label="Data &lt;1&gt; 25%; Forward 75%"' in text
    assert "None" not in text


def test_labels_of_rates_fit_beside_the_chart():
    """Numbers of rates are long in plain digits: they go by powers of ten, all of an axis alike."""
    from sclds.report.charts import TICK_CHARACTERS, tick_labels

    assert tick_labels([0.0, 0.00025, 0.0005, 0.00075], "") == ["0", "2.5e-4", "5e-4", "7.5e-4"]
    assert tick_labels([0.0, 0.0005, 0.001, 0.0015], "") == ["0", "0.0005", "0.001", "0.0015"]
    assert tick_labels([0.0, 1.25e-5, 2.5e-5], "")[1] == "1.25e-5"
    assert tick_labels([0.0, 5e-6, 1e-5], "") == ["0", "5e-06", "1e-05"]
    assert tick_labels([0.0, 1500.0], "") == ["0", "1,500"]
    assert max(map(len, tick_labels([0.0, 2e-4, 4e-4], ""))) <= TICK_CHARACTERS
