"""A finished run shows its results, unless they are of other sets than its own."""

import pytest

from sclds.config.reading import load_config
from sclds.evaluation.record import recorded
from sclds.run.checkpoints import Checkpoint
from sclds.run.folder import RunFolder
from sclds.train.pretrain import is_finished
from sclds.train.progress import Reporter


@pytest.fixture
def config(tmp_path):
    return load_config("quickstart", [f"run_dir={tmp_path}", "schedule.steps=400"])


@pytest.fixture
def folder(config, tmp_path):
    rows = {d.name: {"kind": d.kind, "samples": 4} for d in config.data.heldout}
    folder = RunFolder(tmp_path)
    folder.write_results(recorded({"sets": rows}, config, 400, {}))
    return folder


def finished(folder, config, step=400):
    checkpoint = Checkpoint(folder.checkpoints / "step", step, 2, {})
    return is_finished(folder, config, checkpoint, Reporter(0, config.schedule.steps))


def test_results_of_the_last_step_and_the_present_sets_are_shown(folder, config, capsys):
    assert finished(folder, config)
    assert not finished(folder, config, step=399)
    assert capsys.readouterr().out == ""


def test_results_of_other_sets_are_measured_again(folder, config, capsys):
    fewer = config.model_copy(update={"data": config.data.model_copy(update={"heldout": config.data.heldout[:1]})})
    assert not finished(folder, fewer)
    said = capsys.readouterr().out
    assert "Measuring again: they are of pictures-heldout, clips-heldout, and the run's held-out sets are" in said


def test_damaged_results_are_measured_again(folder, config, capsys):
    folder.results.write_bytes(b"\\x00")
    assert not finished(folder, config)
    assert "results.json is left out: it cannot be read" in capsys.readouterr().out
