import json

import pytest
import torch

from sclds.config.errors import CheckpointError
from sclds.config.reading import parse_config
from sclds.run.checkpoints import STATE_FILE, newest_checkpoint
from sclds.train.checkpoint import save_checkpoint


class OneProcess:
    rank = 0
    world_size = 1
    device = torch.device("cpu")

    def barrier(self):
        pass

    def any(self, *flags):
        return list(flags)


class Engine:
    """Writes one file, or dies half-way."""

    def __init__(self, dies=False, weight=1.0, moment=1.0):
        self.dies = dies
        self.optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.tensor([0.0, weight]))])
        [parameter] = self.optimizer.param_groups[0]["params"]
        self.optimizer.state[parameter] = {"step": torch.tensor(3.0), "exp_avg": torch.tensor([0.0, moment])}

    def save_checkpoint(self, folder, tag, client_state, save_latest):
        from pathlib import Path

        (Path(folder) / tag).mkdir()
        (Path(folder) / tag / "weights.pt").write_text("weights")
        if self.dies:
            raise OSError("disk full")


def config(**changes):
    return parse_config({"name": "a", "data": {"train": [{"name": "x", "shards": "y"}]}} | changes)


def save(folder, step, keep=2, **kwargs):
    return save_checkpoint(Engine(**kwargs), folder, step, config(), OneProcess(), keep)


def test_the_newest_complete_checkpoint_is_found_and_old_ones_go(tmp_path):
    assert newest_checkpoint(tmp_path / "absent") is None
    for step in (5, 10, 15):
        save(tmp_path, step)
    assert newest_checkpoint(tmp_path).step == 15
    assert (tmp_path / "latest").read_text() == "step-0000015"
    assert sorted(p.name for p in tmp_path.glob("step-*")) == ["step-0000010", "step-0000015"]


def test_a_half_written_checkpoint_is_ignored_and_later_removed(tmp_path):
    save(tmp_path, 5)
    with pytest.raises(OSError, match="disk full"):
        save(tmp_path, 10, dies=True)
    assert newest_checkpoint(tmp_path).step == 5
    assert (tmp_path / "step-0000010.tmp").is_dir()
    (tmp_path / "step-0000020").mkdir()
    assert newest_checkpoint(tmp_path).step == 5
    (tmp_path / "step-0000020" / STATE_FILE).write_text('{"step": 20')
    assert newest_checkpoint(tmp_path).step == 5
    save(tmp_path, 10)
    assert newest_checkpoint(tmp_path).step == 10
    assert not list(tmp_path.glob("*.tmp"))


def test_saving_a_step_twice_replaces_it(tmp_path):
    save(tmp_path, 5)
    save(tmp_path, 5)
    assert newest_checkpoint(tmp_path).step == 5


def test_the_state_names_step_processes_and_settings(tmp_path):
    state = json.loads((save(tmp_path, 5) / STATE_FILE).read_text())
    assert (state["step"], state["world_size"]) == (5, 1)
    assert parse_config(state["config"]) == config()


@pytest.mark.parametrize("broken", [{"weight": float("nan")}, {"weight": float("inf")}, {"moment": float("nan")}])
def test_what_is_not_finite_is_never_saved_and_pushes_out_nothing(tmp_path, broken):
    save(tmp_path, 5, keep=1)
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    with pytest.raises(CheckpointError, match="after step 10 are not finite"):
        save(tmp_path, 10, keep=1, **broken)
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before
