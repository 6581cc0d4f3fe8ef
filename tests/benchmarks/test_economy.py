"""`sclds benchmark economy`: three ways a seed, resumable, and figures out of the runs' own results."""

import csv
import json
from pathlib import Path

import pytest

from sclds.benchmarks import economy as economy_benchmark
from sclds.cli.main import main

QUICKSTART = str(Path(__file__).parents[2] / "configs" / "quickstart.yaml")


@pytest.fixture
def started(monkeypatch):
    """Stand in for the launcher: a run takes 3 s a step in the exact mode and 2 s in the economy mode."""
    runs = []

    def pretrain(name, config, overrides, processes, time_limit=None):
        given = dict(o.split("=", 1) for o in overrides)
        folder, seconds = Path(given["run_dir"]), 3.0 if given["losses.mlm_view"] == "t1" else 2.0
        runs.append((name, given["seed"], given["schedule.steps"]))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "seconds": {"total": seconds}}) + "\n")
        figures = {
            "n": 10,
            "r1": 0.0,
            "r5": 0.1,
            "median_rank": 4.0,
            "r10": int(given["schedule.steps"]) / 100,
            "chance_r10": 0.1,
        }
        retrieval = {"image": {"text_to_vision": figures, "vision_to_text": figures}}
        (folder / "results.json").write_text(json.dumps({"retrieval": retrieval}))

    monkeypatch.setattr(economy_benchmark, "pretrain", pretrain)
    return runs


def test_equal_time_gives_economy_the_steps_that_its_pace_allows(started, tmp_path, capsys):
    arguments = ["--config", QUICKSTART, "--steps", "20", "--seeds", "0", "7", "--out", str(tmp_path)]
    assert main(["benchmark", "economy", *arguments]) == 0
    assert started == [
        ("exact-20-seed0", "0", "20"),
        ("economy-20-seed0", "0", "20"),
        ("exact-20-seed7", "7", "20"),
        ("economy-20-seed7", "7", "20"),
        ("economy-30-seed0", "0", "30"),
        ("economy-30-seed7", "7", "30"),
    ]
    with (tmp_path / "economy.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(r["way"], r["steps"], r["value"]) for r in rows if r["metric"] == "r10"} == {
        ("exact", "20", "0.2"),
        ("economy, equal steps", "20", "0.2"),
        ("economy, equal time", "30", "0.3"),
    }
    assert (tmp_path / "economy.png").stat().st_size > 0
    assert "| economy, equal time | 30 | 2.00 | 0.300 (0.300 to 0.300) |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (["--seeds", "1", "1"], "twice"),
        (["--steps", "0"], "at least 1"),
        (["data.heldout=[]"], "data.heldout is empty"),
        (["losses.mlsc=0"], "MLSC"),
    ],
)
def test_what_makes_no_comparison_is_refused(started, bad, words, capsys, tmp_path):
    assert main(["benchmark", "economy", "--config", QUICKSTART, "--out", str(tmp_path), *bad]) == 2
    assert words in capsys.readouterr().err
    assert started == []
