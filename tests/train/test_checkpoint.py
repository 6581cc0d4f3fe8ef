import json
import re
import shutil

import pytest
import torch

from sclds.config.errors import CheckpointError, ConfigError
from sclds.config.reading import parse_config
from sclds.run.checkpoints import HAS_MANIFEST, STATE_FILE, checkpoint_name, newest_checkpoint
from sclds.run.manifest import MANIFEST_FILE, manifest_of, record_files, write_manifest
from sclds.train.consolidate import consolidated_weights
from sclds.train.resume import sound_checkpoint
from sclds.train.saver import CheckpointSaver
from tests.train.one_process import OneProcess


class Engine:
    """Writes one file, or dies half-way."""

    def __init__(self, dies=False, weight=1.0, moment=1.0):
        self.dies = dies
        self.module = torch.nn.Module()
        self.optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.tensor([0.0, weight]))])
        [parameter] = self.optimizer.param_groups[0]["params"]
        self.optimizer.state[parameter] = {"step": torch.tensor(3.0), "exp_avg": torch.tensor([0.0, moment])}

    def save_checkpoint(self, folder, tag, client_state, save_latest):
        from pathlib import Path

        (Path(folder) / tag).mkdir()
        self.checkpoint_engine.save({"weights": torch.ones(3)}, Path(folder) / tag / "weights.pt")
        if self.dies:
            raise OSError("disk full")


def config(**changes):
    return parse_config({"name": "a", "data": {"train": [{"name": "x", "shards": "y"}]}} | changes)


def save(folder, step, keep=2, keep_every=0, best=None, **kwargs):
    settings = config(checkpoint={"every": 5, "keep": keep, "keep_every": keep_every})
    saver = CheckpointSaver(Engine(**kwargs), folder, settings, OneProcess())
    try:
        saver.save(step, best=best)
        saver.wait()
    finally:
        saver.close()
    return folder / checkpoint_name(step)


def test_the_newest_complete_checkpoint_is_found_and_old_ones_go(tmp_path):
    assert newest_checkpoint(tmp_path / "absent") is None
    for step in (5, 10, 15):
        save(tmp_path, step)
    assert newest_checkpoint(tmp_path).step == 15
    assert (tmp_path / "latest").read_text() == "step-0000015"
    assert sorted(p.name for p in tmp_path.glob("step-*")) == ["step-0000010", "step-0000015"]


def test_each_nth_and_the_best_stay_besides(tmp_path):
    for step in range(5, 40, 5):
        save(tmp_path, step, keep=1, keep_every=15, best=10 if step >= 10 else None)
    kept = ["step-0000010", "step-0000015", "step-0000030", "step-0000035"]
    assert sorted(p.name for p in tmp_path.glob("step-*")) == kept
    with pytest.raises(ConfigError, match=r"checkpoint.keep_every=7 is not a multiple of checkpoint.every=5"):
        config(checkpoint={"every": 5, "keep_every": 7})


def test_a_half_written_checkpoint_is_ignored_and_later_removed(tmp_path):
    full = r"cannot be written \(disk full; on .* GB are free there\).*"
    with pytest.raises(CheckpointError, match=f"step-0000005 {full}; it would have been the first$"):
        save(tmp_path, 5, dies=True)
    save(tmp_path, 5)
    with pytest.raises(CheckpointError, match=f"step-0000010 {full}; step-0000005 stands$"):
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
    assert parse_config(state["config"]) == config(checkpoint={"every": 5, "keep": 2})


class Said(list):
    """Collects what a person would read."""

    def __call__(self, text):
        self.append(text)


def resumed(folder, said=None):
    checkpoint = sound_checkpoint(folder, OneProcess(), Said() if said is None else said)
    return checkpoint.step if checkpoint else 0


def weights_of(folder, step):
    return folder / checkpoint_name(step) / "engine" / "weights.pt"


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


class Runs:
    """What a pickle must not do."""

    def __reduce__(self):
        return (print, ("ran",))


def with_code(path):
    """Write code into a shard, and a manifest that vouches for it."""
    torch.save({"weights": Runs()}, path)
    folder = path.parent.parent
    files = [folder / name for name in manifest_of(folder)]
    write_manifest(folder, record_files(folder, files))


DAMAGE = {
    "a flipped byte": (flipped, "has another content than was written"),
    "a shard cut short": (lambda path: path.write_bytes(path.read_bytes()[:-7]), r"has [\d,]+ bytes, expected [\d,]+"),
    "an empty shard": (lambda path: path.write_bytes(b""), "has 0 bytes"),
    "a missing shard": (lambda path: path.unlink(), "cannot be read"),
    "another step's number": (
        lambda path: (state := path.parents[1] / STATE_FILE).write_text(state.read_text().replace(": 10", ": 15", 1)),
        "it says that it is of step|another content|bytes, expected",
    ),
    "another step's folder": (
        lambda path: (
            shutil.rmtree(path.parents[1]),
            shutil.copytree(path.parents[2] / checkpoint_name(5), path.parents[1]),
        ),
        "it says that it is of step 5",
    ),
    "a shard that nobody wrote": (
        lambda path: path.with_name("more.pt").write_bytes(path.read_bytes()),
        "engine/more.pt is not in its manifest",
    ),
    "code in a shard": (with_code, "names code that no checkpoint of a run contains"),
    "a state that cannot be read": (lambda path: (path.parents[1] / STATE_FILE).write_text("{"), "another content"),
    "a state of another shape": (lambda path: (path.parents[1] / STATE_FILE).write_text("[1]"), "another content"),
    "no state": (lambda path: (path.parents[1] / STATE_FILE).unlink(), "is missing"),
    "no manifest": (lambda path: (path.parents[1] / MANIFEST_FILE).unlink(), r"its manifest\.json is missing"),
    "a manifest of other bytes": (
        lambda path: (path.parents[1] / MANIFEST_FILE).write_bytes(b"\xff\xfe\x00"),
        r"its manifest\.json is damaged \(it is no text\)",
    ),
    "a damaged manifest": (
        lambda path: (path.parents[1] / MANIFEST_FILE).write_text("{"),
        "its manifest.json is damaged",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_and_said(tmp_path, name, capsys):
    for step in (5, 10):
        save(tmp_path, step)
    damage, reason = DAMAGE[name]
    damage(weights_of(tmp_path, 10))
    said = Said()
    assert resumed(tmp_path, said) == 5
    (line,) = said
    assert "step-0000010 is passed over: " in line
    assert line.endswith("; step-0000005 is taken instead")
    assert re.search(reason, line)
    assert capsys.readouterr().out == "", "code out of the file has run"


def test_sound_checkpoints_are_taken_without_a_word(tmp_path):
    said = Said()
    assert resumed(tmp_path / "absent", said) == 0
    for step in (5, 10):
        save(tmp_path, step)
    assert resumed(tmp_path, said) == 10
    assert said == []


@pytest.mark.parametrize("name", ["a flipped byte", "a state that cannot be read", "no state"])
def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_over(tmp_path, name):
    for step in (5, 10):
        save(tmp_path, step)
        DAMAGE[name][0](weights_of(tmp_path, step))
    with pytest.raises(CheckpointError, match=r"no checkpoint of this run can be used:\n(.*00(10|05).*\n){2}restore"):
        resumed(tmp_path)


def test_a_checkpoint_of_a_version_without_manifests_is_taken(tmp_path):
    save(tmp_path, 5)
    folder = tmp_path / checkpoint_name(5)
    (folder / MANIFEST_FILE).unlink()
    state = json.loads((folder / STATE_FILE).read_text())
    assert state.pop(HAS_MANIFEST)
    (folder / STATE_FILE).write_text(json.dumps(state))
    assert resumed(tmp_path) == 5


def test_ranks_that_see_different_folders_are_refused(tmp_path):
    save(tmp_path, 5)

    class Two(OneProcess):
        world_size = 2

        def gather_objects(self, value):
            return [value, []]

    with pytest.raises(CheckpointError, match=r"rank 1 sees checkpoints of steps none in .*, rank 0 those of .*share"):
        sound_checkpoint(tmp_path, Two(), Said())


def test_weights_are_not_read_where_the_manifest_is_missing(tmp_path):
    save(tmp_path, 5)
    (tmp_path / checkpoint_name(5) / MANIFEST_FILE).unlink()
    with pytest.raises(CheckpointError, match=r"step-0000005: its manifest\.json is missing; take an older checkpoint"):
        consolidated_weights(tmp_path / checkpoint_name(5))


def test_weights_are_not_read_out_of_a_damaged_checkpoint(tmp_path):
    save(tmp_path, 5)
    flipped(weights_of(tmp_path, 5))
    with pytest.raises(CheckpointError, match=r"step-0000005 is damaged: engine/weights\.pt has another content"):
        consolidated_weights(tmp_path / checkpoint_name(5))


@pytest.mark.parametrize("broken", [{"weight": float("nan")}, {"weight": float("inf")}, {"moment": float("nan")}])
def test_what_is_not_finite_is_never_saved_and_pushes_out_nothing(tmp_path, broken):
    save(tmp_path, 5, keep=1)
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    with pytest.raises(CheckpointError, match="after step 10 are not finite"):
        save(tmp_path, 10, keep=1, **broken)
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before
