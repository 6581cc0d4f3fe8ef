"""`sclds benchmark step` on a tiny model: both schedules give one loss, and what is written can be read back."""

import csv

import pytest

from sclds.benchmarks import step as step_benchmark
from sclds.cli.main import main

TINY = {"width": 32, "vision_layers": 1, "text_layers": 1, "fusion_layers": 1, "image_size": 32, "padded": 20}


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    for name, value in TINY.items():
        monkeypatch.setitem(step_benchmark.MID_SIZE, name, value)


@pytest.mark.parametrize("size", [[], ["--image-size", "48"]], ids=str)
def test_writes_rates_and_their_ratio(size, tmp_path, capsys):
    assert (
        main(["benchmark", "step", "--rounds", "2", "--batch", "3", "--width", "32", "--out", str(tmp_path), *size])
        == 0
    )
    with (tmp_path / "step.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["provider"] for r in rows] == ["packed", "published", "packed/published"]
    assert all(float(r["q20"]) <= float(r["median"]) <= float(r["q80"]) for r in rows)
    assert (tmp_path / "step.png").stat().st_size > 0
    assert "samples/s" in capsys.readouterr().out


@pytest.mark.parametrize("bad", [["--rounds", "0"], ["--batch", "1"], ["--width", "100"], ["--image-size", "40"]])
def test_a_number_that_makes_no_benchmark_is_refused(bad, capsys):
    assert main(["benchmark", "step", *bad]) == 2
    assert "error" in capsys.readouterr().err
