"""An evaluation of a gallery that ended too early goes on where it was, and ends as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from sclds.evaluation import parts as parts_module
from sclds.evaluation import reranker
from sclds.evaluation.identity import key_of
from sclds.evaluation.parts import Parts
from sclds.evaluation.tasks import evaluate
from sclds.interop.folder import ModelFolder, Origin, build_model, write_folder
from sclds.losses.communicator import SingleProcess
from tests.evaluation.test_gallery import world
from tests.losses.threads import run_ranks

__all__ = ["world"]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch):
    monkeypatch.setattr(reranker, "BATCHES_OF_A_BLOCK", 2)


def measured(world, parts, communicator=None, progress=None):
    config, model, tokenizer = world
    return evaluate(model, config, tokenizer, CPU, communicator or SingleProcess(), progress=progress, parts=parts)


def names(folder):
    return sorted(path.name for path in folder.rglob("*.sclpart"))


class Killed(Exception):
    pass


class Stops(Parts):
    """Parts of an evaluation that ends once so many are kept."""

    left = 0

    def keep(self, name, tensors, record):
        if not self.left:
            raise Killed
        self.left -= 1
        super().keep(name, tensors, record)


@pytest.mark.parametrize("kept", [1, 4, 9])
def test_it_goes_on_bit_for_bit_with_any_number_of_processes(world, tmp_path, kept):
    alone = measured(world, None)
    stopped = Stops(tmp_path, "key")
    stopped.left = kept
    with pytest.raises(Killed):
        measured(world, stopped)
    assert len(names(tmp_path)) == kept
    again = Parts(tmp_path, "key")
    assert "Taken over" in again.examine()[0]
    read = []
    again.take = lambda name: read.append(found := Parts.take(again, name)) or found
    for found in run_ranks(3, lambda communicator: measured(world, again, communicator)):
        assert json.dumps(found) == json.dumps(alone)
    assert sum(found is not None for found in read) >= kept
    whole = names(tmp_path)
    assert any(name.startswith("matched-a-") for name in whole)
    assert any(name.startswith("encoded-b-") for name in whole)
    told = []
    assert measured(world, again, progress=lambda *state: told.append(state)) == alone
    assert {what for what, _, _ in told} == {"Matching the pairs of a", "Matching the pairs of b"}
    assert all(done == total for _, done, total in told), "what was taken over is done from the beginning"


def test_a_damaged_part_is_said_and_computed_again(world, tmp_path):
    alone = measured(world, Parts(tmp_path, "key"))
    for name in (names(tmp_path)[0], names(tmp_path)[-1]):
        path = tmp_path / "key" / name
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    again = Parts(tmp_path, "key")
    damaged = [sentence for sentence in again.examine() if "is damaged" in sentence]
    assert len(damaged) == 2
    assert names(tmp_path)[0] in damaged[0] or "encoded" in damaged[0]
    assert measured(world, again) == alone


def test_pairs_of_other_features_are_scored_again(world, tmp_path):
    """Where features come out otherwise, as on a device that is not exact, other pairs are asked for."""
    alone = measured(world, Parts(tmp_path, "key"))
    parts = Parts(tmp_path, "key")
    name = next(name for name in names(tmp_path) if name.startswith("matched")).removesuffix(".sclpart")
    tensors, record = parts.take(name)
    parts.keep(name, {"pairs": tensors["pairs"] + 1, "scores": tensors["scores"] * 0 + 100}, record)
    assert measured(world, parts) == alone


def test_parts_are_those_of_weights_settings_samples_and_tokenizer(world, tmp_path):
    config, model, tokenizer = world
    key = key_of(config, model, tokenizer, CPU)
    assert key == key_of(config.model_copy(update={"run_dir": "elsewhere"}), model, tokenizer, CPU)
    evaluation = config.evaluation.model_copy(update={"rerank": 2})
    assert key != key_of(config.model_copy(update={"evaluation": evaluation}), model, tokenizer, CPU)
    shard = tmp_path / "images" / "0.tar"
    before = shard.stat()
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    assert key != key_of(config, model, tokenizer, CPU), "an image may have changed in its place"
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert key == key_of(config, model, tokenizer, CPU)
    with torch.no_grad():
        next(model.parameters()).flatten()[0] += 1e-3
    other = key_of(config, model, tokenizer, CPU)
    assert key != other
    Parts(tmp_path / "parts", key).keep("encoded-x", {}, {})
    [sentence] = Parts(tmp_path / "parts", other).examine()
    assert "not used" in sentence
    assert Parts(tmp_path / "parts", other).take("encoded-x") is None


def test_a_full_disk_costs_the_parts_alone(world, tmp_path, monkeypatch, caplog):
    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parts_module, "replacing", full)
    assert measured(world, Parts(tmp_path, "key")) == measured(world, None)
    assert caplog.text.count("if it is killed, it starts over") == 1


@pytest.mark.multiprocess
@pytest.mark.slow
def test_killed_and_started_again_it_writes_the_same_file(world, tmp_path):
    """A real process, killed with nothing to say about it."""
    config, model, tokenizer = world
    text = config.model.text.model_copy(update={"vocab_size": tokenizer.vocab_size})
    own = config.model.model_copy(update={"text": text})
    weights = tmp_path / "weights"
    write_folder(weights, ModelFolder(own, dict(model.named_parameters()), Origin("test")))
    build_model(own)
    command = [sys.executable, "-m", "sclds", "evaluate", str(weights), "--config", "quickstart"]
    command += [
        "--data",
        f"a={tmp_path / 'images'}",
        "evaluation.captions=all",
        "evaluation.rerank=100",
        "evaluation.batch_size=1",
    ]
    command += ["data.image_size=16", "data.video_size=16", "evaluation.max_samples=7"]
    outs = [tmp_path / "whole.json", tmp_path / "killed.json"]
    subprocess.run([*command, "--out", str(outs[0])], check=True, capture_output=True, timeout=200)
    parts = outs[1].with_name("killed.json.parts")
    child = subprocess.Popen([*command, "--out", str(outs[1])], stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 200
        while not names(parts) and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    assert names(parts)
    assert not outs[1].exists()
    again = subprocess.run([*command, "--out", str(outs[1])], check=True, capture_output=True, text=True, timeout=200)
    assert "Taken over from an evaluation" in again.stdout
    assert outs[1].read_bytes() == outs[0].read_bytes()
    assert not parts.exists(), "what is done needs no parts"
