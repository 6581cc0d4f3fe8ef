"""`sclds benchmark data` on a few pictures: both sides see the same, and what is written can be read back."""

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image

from sclds.benchmarks import data as data_benchmark
from sclds.benchmarks.data import (
    Ours,
    Rate,
    Stages,
    UsualImages,
    benchmark_config,
    cores_per_gpu,
    rows_of,
)
from sclds.benchmarks.photographs import photograph, write_photographs
from sclds.cli.main import main
from sclds.data.storage.shards import open_index
from sclds.data.tokenizer import load_tokenizer


def test_writes_rates_ratios_and_what_they_mean(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(data_benchmark, "IMAGES", 8)
    options = ["--rounds", "1", "--batches", "2", "--batch", "8", "--samples", "80", "--cores", "1"]
    assert main(["benchmark", "data", *options, "--out", str(tmp_path)]) == 0
    with (tmp_path / "data.csv").open(newline="") as file:
        rows = {(row["provider"], row["metric"]): row for row in csv.DictReader(file)}
    for metric in ("images_per_second_per_core", "images_per_busy_core_second"):
        ours, usual = (float(rows[name, metric]["median"]) for name in ("sclds", "usual"))
        assert float(rows["sclds/usual", f"ratio_of_{metric}"]["median"]) == pytest.approx(ours / usual)
    assert json.loads(rows["sclds", "loader_samples_per_second"]["config"])["cores"] == 1
    assert ("sclds", "resident_growth_bytes") in rows
    taken = [float(rows[way, "host_microseconds_per_sample"]["median"]) for way in ("thread", "process")]
    assert 0 <= taken[1] < taken[0], "another process decodes, reads and packs"
    assert (tmp_path / "data.png").stat().st_size > 0
    printed = capsys.readouterr().out
    assert "text, masks and packing take" in printed
    assert "H100: " in printed
    assert "beside an H100" in printed


@pytest.mark.parametrize(
    "bad", [["--rounds", "0"], ["--batch", "12"], ["--cores", "100000"], ["--samples", "0"], ["--cores", "-1"]]
)
def test_a_number_that_makes_no_benchmark_is_refused(bad, capsys):
    assert main(["benchmark", "data", *bad]) == 2
    assert "error" in capsys.readouterr().err


def test_both_sides_make_the_same_picture(tmp_path):
    """Same region, scaled and normalized alike: within two of 255 levels of every value."""
    write_photographs(tmp_path, 2)
    config = benchmark_config(tmp_path, 8, 1)
    usual = UsualImages(tmp_path, config, 2, 2)
    ours = Ours(config, open_index(config.data.train), load_tokenizer("embedded"), 1)
    sample = ours._maker.encoded(1, (0, 1))
    key_of_usual = data_benchmark.training_window(config.data, 500, 375, data_benchmark.generator(0, "window", 1))
    patches = ours._decoder([data_benchmark.replace(sample, window=key_of_usual)])
    ours.close()
    picture = patches.view(18, 18, 3, 16, 16).permute(2, 0, 3, 1, 4).reshape(3, 288, 288)
    assert (picture - usual[1]).abs().max() < 2 / 255 / 0.26


def test_generated_pictures_are_like_photographs():
    content = [photograph(seed) for seed in range(3)]
    assert 80e3 < np.mean([len(part) for part in content]) < 120e3
    pixels = np.asarray(Image.open(io.BytesIO(content[0])).convert("L"), np.float64)
    assert pixels.shape == (375, 500)
    assert 30 < pixels.std() < 80
    power = np.abs(np.fft.fft(pixels, axis=1)[:, 1:120]).mean(0)
    slope = np.polyfit(np.log(np.arange(1, 120)), np.log(power), 1)[0]
    assert -1.2 < slope < -0.3, "amplitude falls with frequency"


def test_rates_are_per_core_and_turn_by_turn():
    found = {"sclds": [Rate(100, 2.0, 1.0), Rate(100, 1.0, 1.0)], "usual": [Rate(100, 4.0, 4.0), Rate(100, 4.0, 4.0)]}
    rows = {(row.provider, row.metric): row for row in rows_of(found, 2, {"cores": 2})}
    assert rows["usual", "images_per_second_per_core"].median == 12.5
    assert rows["sclds/usual", "ratio_of_images_per_second_per_core"].median == 3.0
    assert rows["sclds/usual", "ratio_of_images_per_busy_core_second"].median == 4.0


def test_cores_follow_from_the_planned_pace():
    a100, h100 = cores_per_gpu(Stages(0.001, 0.008, 0.001))
    pace, cores = (float(a100.split(" images/s")[0].split()[-1]), float(a100.split("cost ")[1].split()[0]))
    assert cores == pytest.approx(pace * 0.01, abs=0.06)
    assert h100.startswith("H100")
    assert "estimate" in a100
