"""The comparison of splits: what it measures, and real runs of two splits through the launcher."""

import json
from pathlib import Path

import pytest
import torch

from sclds.cli.main import main
from sclds.config.errors import UserError
from sclds.reference.invariance import Outcome, compare, part_of
from tests.train.synthetic import tiny_config

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = str(ROOT / "configs" / "quickstart.yaml")
TINY = [
    *("data.image_size=16", "data.video_size=16", "data.frames=2", "batch.global_size=16", "batch.group_size=4"),
    *("model.vision={width: 32, heads: 2, layers: 1, patch_size: 16, pretrained_image_size: 16}",),
    *("model.text.width=32", "model.text.layers=1", "model.fusion.width=32", "model.fusion.layers=1"),
    "model.projection=16",
]


def outcome(loss=2.0, weight=1.0):
    return Outcome([{"mlm": 4.0, "itm": loss}], {"a": torch.tensor([2.0, weight]), "zero": torch.zeros(3)})


def test_differences_are_relative_to_the_largest_magnitude():
    same = compare("w", outcome(), outcome())
    assert (same.loss, same.weight, same.passed) == (0.0, 0.0, True)
    found = compare("w", outcome(loss=2.0001, weight=1.00001), outcome())
    assert found.loss == pytest.approx(5e-5, rel=1e-3)
    assert found.loss_where == "itm, step 1"
    assert found.weight == pytest.approx(5e-6, rel=0.05)
    assert found.weight_where == "a"
    assert not found.passed


def test_counts_are_left_out():
    """A near-tie may fall either way; the loss beside it says whether outputs agree."""
    ours, theirs = outcome(), outcome()
    theirs.losses[0]["itm_accuracy"], ours.losses[0]["itm_accuracy"] = 0.5, 0.75
    assert compare("w", ours, theirs).passed


def test_what_is_not_a_number_does_not_pass():
    for strange in (outcome(loss=float("nan")), outcome(weight=float("nan"))):
        assert not compare("w", strange, outcome()).passed
        assert not compare("w", outcome(), strange).passed


def test_runs_that_cannot_be_compared_are_sentences():
    other = Outcome([], outcome().weights)
    with pytest.raises(UserError, match="nothing to compare"):
        compare("w", other, outcome())
    assert part_of(tiny_config(), [1, 2, 4]) == 4
    with pytest.raises(UserError, match=r"give batch\.global_size=32"):
        part_of(tiny_config(batch={"global_size": 32, "group_size": 8, "max_micro_size": 8} | {"global_size": 40}), [1])
    with pytest.raises(UserError, match="3 processes cannot share"):
        part_of(tiny_config(), [3])


def test_faults_of_the_command_line_exit_2(capsys):
    assert main(["verify", "invariance", "--config", "absent.yaml"]) == 2
    assert main(["verify", "invariance", "--config", QUICKSTART, "--steps", "0"]) == 2
    assert "--steps" in capsys.readouterr().err


@pytest.mark.multiprocess
@pytest.mark.slow
def test_two_splits_and_two_packing_orders_through_the_launcher_agree(capsys, monkeypatch):
    """1 process × 4 accumulation steps, 2 × 2, and another packing order give losses and weights within 1e-5."""
    monkeypatch.chdir(ROOT)
    arguments = ["--steps", "2", "--processes", "1", "2", "--stages", "3", "--json"]
    code = main(["verify", "invariance", "--config", QUICKSTART, *arguments, *TINY])
    found = json.loads(capsys.readouterr().out)
    assert [row["way"] for row in found["rows"]] == ["1x4 zero3", "2x2 zero3", "1x4 zero3 shuffled"]
    assert all(row["weight"] > 0 for row in found["rows"][1:])
    assert (code, found["passed"]) == (0, True), found
