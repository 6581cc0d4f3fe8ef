"""`sclds train` by itself, as a module, and as the launcher: the same checks, the same exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sclds.cli import profile, train
from sclds.cli.main import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "start",
    [["-m", "sclds", "train"], ["-m", "sclds.cli.train", "--local_rank=1"], [str(ROOT / "launchers" / "pretrain.py")]],
    ids=["command", "module", "launcher"],
)
def test_faults_are_sentences_however_it_is_started(start, tmp_path):
    line = [sys.executable, *start, "--config", str(ROOT / "configs" / "quickstart.yaml"), "batch.global_sise=8"]
    environment = os.environ | {"DS_ACCELERATOR": "cpu"}  # DeepSpeed says on standard output what it has to guess
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean 'global_size'" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_run_starts_with_its_settings_and_its_newest_checkpoint(tmp_path, monkeypatch):
    from sclds.config.reading import load_config
    from sclds.train import pretrain

    started = []
    monkeypatch.setattr(pretrain, "pretrain", lambda *given: started.append(given) or 5)
    overrides = [f"run_dir={tmp_path}", "schedule.steps=7"]
    assert main(["train", "--config", "quickstart", *overrides]) == 5
    folder = tmp_path / "checkpoints" / "step-0000003"
    folder.mkdir(parents=True)
    config = load_config("quickstart", overrides)
    state = {"step": 3, "world_size": 1, "config": config.model_dump(mode="json")}
    (folder / "state.json").write_text(json.dumps(state))
    assert train.main(["--local_rank", "0", "--config", "quickstart", *overrides]) == 5
    assert [(given[0], given[1] and given[1].step) for given in started] == [(config, None), (config, 3)]


def test_a_host_that_does_not_share_the_run_folder_is_told_so(tmp_path, capsys):
    assert train.main(["--config", str(tmp_path / "run" / "launch.yaml"), "--hostfile-run"]) == 2
    assert "launch.yaml is not there: the run folder has to be one that all hosts share" in capsys.readouterr().err


def test_profile_refuses_no_steps(capsys):
    assert main(["profile", "--config", "quickstart", "--steps", "0"]) == 2
    assert profile.main(["--config", "quickstart", "--steps", "0"]) == 2
    assert "--steps is 0: give at least 1" in capsys.readouterr().err
