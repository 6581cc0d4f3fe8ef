"""Ways of training, compared: runs in order, resumable, figures out of the runs' own results, differences tested."""

import csv
import json
import math
import statistics
from pathlib import Path

import pytest

from sclds.benchmarks import comparison, objectives
from sclds.benchmarks.comparison import Measured
from sclds.benchmarks.significance import holm, paired, two_sided_p
from sclds.cli.main import main
from sclds.config.reading import load_config

QUICKSTART = str(Path(__file__).parents[2] / "configs" / "quickstart.yaml")


@pytest.fixture
def started(monkeypatch):
    """Stand in for the launcher: a run takes 1 s a step and objective, and 2 s for MLM with its own view."""
    runs = []

    def pretrain(name, config, overrides, processes, time_limit=None):
        losses = load_config(config, overrides).losses
        given = dict(o.split("=", 1) for o in overrides)
        folder, steps, seed = Path(given["run_dir"]), int(given["schedule.steps"]), int(given["seed"])
        on = [name for name in ("contrastive", "sigmoid", "itm", "mlm", "mvsc", "mlsc") if getattr(losses, name)]
        local = [name for name in ("mltc_image", "mltc_text") if getattr(losses, name)]
        seconds = len(on) + len(local) + (losses.mlm > 0 and losses.mlm_view == "t1") * 1.0
        runs.append((name, seed, steps))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "seconds": {"total": seconds}}) + "\n")
        figures = {"n": 10, "r1": 0.0, "r5": 0.1, "median_rank": 4.0, "chance_r10": 0.1}
        figures["r10"] = steps / 100 + 0.01 * len(on) + 0.001 * seed
        retrieval = {"image": {"text_to_vision": figures, "vision_to_text": figures}}
        told = {"retrieval": retrieval, "losses": {"initial": {"contrastive": 8.3}, "final": {"contrastive": 7.0}}}
        (folder / "results.json").write_text(json.dumps(told))

    monkeypatch.setattr(comparison, "pretrain", pretrain)
    return runs


def rows_of(file):
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def test_equal_time_gives_economy_the_steps_that_its_pace_allows(started, tmp_path, capsys):
    arguments = ["--config", QUICKSTART, "--steps", "20", "--seeds", "0", "7", "--out", str(tmp_path)]
    assert main(["benchmark", "economy", *arguments]) == 0
    assert started == [
        ("exact-20-seed0", 0, 20),
        ("economy-20-seed0", 0, 20),
        ("exact-20-seed7", 7, 20),
        ("economy-20-seed7", 7, 20),
        ("economy-24-seed0", 0, 24),
        ("economy-24-seed7", 7, 24),
    ]
    rows = rows_of(tmp_path / "economy.csv")
    found = {(r["way"], r["budget"], r["steps"], r["seed"]): float(r["value"]) for r in rows if r["metric"] == "r10"}
    assert found == {
        ("exact", "equal steps", "20", "0"): pytest.approx(0.25),
        ("exact", "equal steps", "20", "7"): pytest.approx(0.257),
        ("economy", "equal steps", "20", "0"): pytest.approx(0.25),
        ("economy", "equal steps", "20", "7"): pytest.approx(0.257),
        ("economy", "equal time", "24", "0"): pytest.approx(0.29),
        ("economy", "equal time", "24", "7"): pytest.approx(0.297),
    }
    assert {(r["metric"], r["value"]) for r in rows if r["measured"] == "heldout loss"} == {
        ("initial contrastive", "8.3"),
        ("final contrastive", "7.0"),
    }
    assert (tmp_path / "economy.png").stat().st_size > 0
    told = capsys.readouterr().out
    assert "| economy, equal time | 24 | 5.00 | 0.293 ± 0.005 | 0.293 ± 0.005 | 2.9 ± 0.0 |" in told
    assert "| economy against exact, equal time | +0.40 |" in told


def test_every_way_has_its_own_objectives_and_the_time_of_all_five(started, tmp_path, capsys):
    arguments = ["--config", QUICKSTART, "--steps", "12", "--seeds", "3", "--out", str(tmp_path)]
    assert main(["benchmark", "objectives", *arguments]) == 0
    assert started == [
        *((f"{way}-12-seed3", 3, 12) for way in ("contrastive", "itm-mlm", "mvsc", "mlsc", "all", "local", "sigmoid")),
        ("contrastive-72-seed3", 3, 72),
        ("itm-mlm-18-seed3", 3, 18),
        ("mvsc-14-seed3", 3, 14),
        ("mlsc-14-seed3", 3, 14),
        ("local-9-seed3", 3, 9),
        ("sigmoid-12-seed3", 3, 12),
    ]
    told = capsys.readouterr().out
    assert "| all five against contrastive, equal steps | +0.40 | one seed has none | – | not shown |" in told
    assert "| all five against contrastive, equal time | -5.60 |" in told
    assert (tmp_path / "objectives.png").stat().st_size > 0


def test_ways_differ_in_their_objectives_alone():
    plain = load_config(QUICKSTART)
    for way in objectives.COMPARISON.ways:
        config = load_config(QUICKSTART, list(way.settings))
        assert config.model_copy(update={"losses": plain.losses}) == plain
    names = [way.name for way in objectives.COMPARISON.ways]
    assert {name for pair in objectives.COMPARISON.tested for name in pair} <= set(names)


@pytest.mark.parametrize(
    ("command", "bad", "words"),
    [
        ("economy", ["--seeds", "1", "1"], "twice"),
        ("economy", ["--steps", "0"], "at least 1"),
        ("economy", ["data.heldout=[]"], "data.heldout is empty"),
        ("economy", ["losses.mlsc=0"], "MLSC"),
        ("objectives", ["losses.mvsc=0"], "losses.mvsc has no weight"),
        ("objectives", ["losses.sigmoid=1"], "losses.sigmoid has a weight"),
        ("objectives", ["losses.mlm_view=t2"], "objectives that are switched off"),
    ],
)
def test_what_makes_no_comparison_is_refused(started, command, bad, words, capsys, tmp_path):
    assert main(["benchmark", command, "--config", QUICKSTART, "--out", str(tmp_path), *bad]) == 2
    assert words in capsys.readouterr().err
    assert started == []


@pytest.mark.parametrize(
    ("freedom", "t"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (5, 2.5706), (10, 2.2281), (29, 2.0452)]
)
def test_student_is_that_of_the_printed_tables(freedom, t):
    """Two-sided 5 % points, Abramowitz & Stegun table 26.10, whose fourth digits leave 5e-6 of the chance open."""
    assert two_sided_p(t, freedom) == two_sided_p(-t, freedom) == pytest.approx(0.05, abs=1e-5)
    assert two_sided_p(0, freedom) == 1


def test_a_difference_is_judged_by_its_pairs():
    """By hand: mean 2, standard deviation 1, so that t is 2·√3, and 4.3027/√3 lies on either side."""
    found = paired([1.0, 2.0, 3.0])
    assert (found.mean, found.low, found.high) == pytest.approx(
        (2, 2 - 4.30265 / 3**0.5, 2 + 4.30265 / 3**0.5), abs=1e-4
    )
    assert found.p == pytest.approx(two_sided_p(2 * 3**0.5, 2))
    assert paired([1.0, 1.0]).p == 0
    assert paired([0.0, 0.0]).p == 1
    assert math.isnan(paired([1.0]).p)


def test_holm_by_hand():
    assert holm([0.04, 0.01, math.nan, 0.03]) == pytest.approx([0.06, 0.03, math.nan, 0.06], nan_ok=True)
    assert holm([0.9, 0.6]) == [1.0, 1.0]


def test_spread_is_that_of_seeds():
    def one(seed, r10):
        figures = {"image text_to_vision": {"r10": r10, "chance_r10": 0.1}}
        return Measured("all five", "equal steps", seed, 5, 1.0, figures, {})

    told = comparison.table(objectives.COMPARISON, [one(0, 0.1), one(1, 0.2), one(2, 0.6)])
    assert f"| 0.300 ± {statistics.stdev([0.1, 0.2, 0.6]):.3f} | 3.0 ± 2.6 |" in told
    assert told.splitlines()[0].startswith("| R@10, mean ± standard deviation of 3 seeds | steps")
