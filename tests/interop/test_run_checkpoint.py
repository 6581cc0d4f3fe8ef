"""A run's checkpoint of every ZeRO stage, written by two real processes, → our folder."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sclds.cli.main import main
from sclds.config.errors import CheckpointError
from sclds.interop.folder import build_model, read_folder
from sclds.run.checkpoints import HAS_MANIFEST, STATE_FILE
from sclds.run.manifest import MANIFEST_FILE
from sclds.train.consolidate import consolidated_weights
from tests.interop.checkpoint_worker import CASES

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-m", "tests.interop.checkpoint_worker", str(folder)]
    children = []
    for rank in range(2):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        with (folder / f"rank{rank}.log").open("w") as log:
            children.append(subprocess.Popen(command, cwd=ROOT, env=os.environ | shared | own, stdout=log, stderr=log))
    try:
        codes = [child.wait(timeout=200) for child in children]
    finally:
        for child in children:
            child.kill()
    assert codes == [0, 0], "\n".join((folder / f"rank{rank}.log").read_text()[-3000:] for rank in range(2))
    return folder


@pytest.mark.multiprocess
@pytest.mark.slow
@pytest.mark.parametrize(("stage", "precision"), CASES)
def test_a_checkpoint_becomes_a_folder(runs, tmp_path, capsys, stage, precision):
    """Weights are those that the processes held; under bf16 they are the fp32 ones that round to those."""
    run = runs / f"{precision}-{stage}"
    assert main(["convert", "run", str(run), str(tmp_path / "ours")]) == 0
    assert "model.init_from" in capsys.readouterr().out
    folder = read_folder(tmp_path / "ours")
    held = torch.load(run / "weights.pt", weights_only=True)
    assert folder.weights.keys() == held.keys()
    for name, tensor in held.items():
        assert folder.weights[name].dtype == torch.float32
        assert torch.equal(folder.weights[name].to(tensor.dtype), tensor), name
    build_model(folder.config, folder.weights)


def unvouched(source, folder):
    """Copy a checkpoint as a version would have written it that had no manifest, which would find all damage first."""
    shutil.copytree(source, folder)
    (folder / MANIFEST_FILE).unlink()
    state = json.loads((folder / STATE_FILE).read_text())
    del state[HAS_MANIFEST]
    (folder / STATE_FILE).write_text(json.dumps(state))
    return folder


@pytest.mark.multiprocess
@pytest.mark.slow
def test_checkpoints_that_are_absent_damaged_or_foreign_are_sentences(runs, tmp_path, capsys):
    assert main(["convert", "run", str(tmp_path), str(tmp_path / "ours")]) == 2
    assert "holds no complete checkpoint" in capsys.readouterr().err
    source = runs / "bf16-1" / "checkpoints" / "step-0000001"
    halved = unvouched(source, tmp_path / "halved")
    next((halved / "engine").glob("*_rank_1_*_optim_states.pt")).unlink()
    with pytest.raises(CheckpointError, match="of 2 shards that of rank 1 is missing"):
        consolidated_weights(halved)
    source = runs / "fp32-3" / "checkpoints" / "step-0000001"
    damaged = unvouched(source, tmp_path / "damaged")
    shard = next((damaged / "engine").glob("*_optim_states.pt"))
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        consolidated_weights(damaged)
    foreign = unvouched(source, tmp_path / "foreign")
    torch.save({"a": subprocess.Popen}, next((foreign / "engine").glob("*_optim_states.pt")))
    with pytest.raises(CheckpointError, match=r"Popen.*not opened"):
        consolidated_weights(foreign)
    lost = unvouched(source, tmp_path / "lost")
    next((lost / "engine").glob("*_optim_states.pt")).unlink()
    with pytest.raises(CheckpointError, match="cannot be put together"):
        consolidated_weights(lost)
