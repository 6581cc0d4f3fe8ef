"""One configuration on 1 to 4,096 GPUs: what limits each size, and the picture."""

from pathlib import Path

import pytest

from sclds.cli.main import main
from sclds.config.errors import UserError
from sclds.config.reading import load_config
from sclds.costs.clusters import known_kinds
from sclds.costs.plan import mix_of
from sclds.costs.scaling import SIZES, draw, scaling

CONFIG = load_config("quickstart", ["batch.global_size=512", "engine.precision=bf16"])
"""Splits over 32 GPUs at most, in groups of 16."""


@pytest.fixture(scope="module")
def rows():
    return scaling(CONFIG, known_kinds(), "h100", mix_of(CONFIG))


def test_every_size_has_a_row_that_says_what_limits_it(rows):
    assert tuple(row["gpus"] for row in rows) == SIZES == tuple(2**power for power in range(13))
    limits = {"compute", "memory traffic", "host", "decode", "link", "global batch"}
    assert {row["limit"] for row in rows} <= limits
    for row in rows:
        runs = row["gpus"] <= 32
        assert ("samples_per_second" in row) == runs
        assert ("why" in row) == (not runs)
        if runs:
            assert row["micro_batch"] * row["accumulation"] * row["gpus"] == 512
    assert rows[5]["limit"] == "global batch"
    assert all("512 samples in groups of 16 go to 32 GPUs at most" in row["why"] for row in rows[6:])


@pytest.mark.parametrize(
    ("figures", "limit"),
    [
        ({"cores_per_gpu": 1000}, "host"),
        ({"cores_per_gpu": 1, "host_factor": 0.01, "memory_bandwidth": 1e14}, "decode"),
        ({"port": 1e6, "host_factor": 0.01, "cores_per_gpu": 1000}, "link"),
        ({"memory_bandwidth": 1e9, "host_factor": 0.01, "cores_per_gpu": 1000}, "memory traffic"),
        ({"memory": 1e7}, "memory"),
    ],
)
def test_what_is_made_slow_limits(figures, limit):
    kinds = known_kinds()
    kinds["h100"] = kinds["h100"].with_figures("made up", **figures)
    found = {row["gpus"]: row["limit"] for row in scaling(CONFIG, kinds, "h100", mix_of(CONFIG))}
    assert found[16] == limit


def test_the_table_fits_and_the_picture_is_drawn(tmp_path: Path, capsys):
    file = tmp_path / "new" / "scaling.svg"
    line = ["plan", "--config", "quickstart", "--gpus", "8", "engine.precision=bf16", "--plot", str(file)]
    assert main(line) == 0
    out = capsys.readouterr().out
    assert "limited by" in out
    assert max(len(one) for one in out.splitlines() if str(tmp_path) not in one) <= 80
    assert "<svg" in file.read_text()


def test_a_picture_that_cannot_be_written_is_a_sentence(rows, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        draw(rows, "title", tmp_path / "file" / "scaling.png")
