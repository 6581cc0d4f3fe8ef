"""Checkpoints that another process writes while steps go on: what is waited for, and what becomes of a death."""

import os
import resource
import signal
import threading
from pathlib import Path

import pytest
import torch

from sclds.config.errors import CheckpointError
from sclds.run.checkpoints import newest_checkpoint
from sclds.train import saver as saving
from sclds.train.copying import MemoryCheckpointEngine
from sclds.train.saver import CheckpointSaver
from tests.train.one_process import OneProcess
from tests.train.synthetic import tiny_config


class Engine:
    """Saves one tensor, under a name that may lead nowhere."""

    def __init__(self):
        self.module = torch.nn.Module()
        self.weight = torch.nn.Parameter(torch.ones(1000))
        self.optimizer = torch.optim.AdamW([self.weight])
        self.name = "weights.pt"
        self.lists, self.accumulated, self.steps = {"a": [1]}, True, 0

    def save_checkpoint(self, folder, tag, client_state, save_latest):
        (Path(folder) / tag).mkdir()
        (Path(folder) / tag / "read_me.py").touch()
        self.checkpoint_engine.save({"weight": self.weight, "lists": self.lists}, Path(folder) / tag / self.name)

    def is_gradient_accumulation_boundary(self):
        return self.accumulated

    def step(self):
        self.steps += 1
        if self.accumulated:
            with torch.no_grad():
                self.weight.fill_(7)
            self.lists["a"].append(7)


class Rig:
    """A saver whose process can be stopped, which is what a slow disk looks like."""

    def __init__(self, folder):
        self.folder, self.engine, self.said, self.saved = folder, Engine(), [], []
        self.saver = CheckpointSaver(
            self.engine, folder, tiny_config(), OneProcess(), self.said.append, self.saved.append
        )
        self.saver.save(1)
        self.saver.wait()
        self.writer = self.saver._writer._process.pid

    def signal(self, number):
        os.kill(self.writer, number)


@pytest.fixture
def rig(tmp_path):
    made = Rig(tmp_path)
    yield made
    made.saver.close()


def test_a_step_waits_for_the_copy_alone(rig):
    """With the disk at a standstill the run goes on, and what is written is what was there when it was saved."""
    rig.signal(signal.SIGSTOP)
    rig.saver.save(2)
    rig.saver.engine.step()
    rig.saver.poll()
    assert rig.saved == [1]
    assert newest_checkpoint(rig.folder).step == 1
    rig.signal(signal.SIGCONT)
    rig.saver.wait()
    assert rig.saved == [1, 2]
    found = newest_checkpoint(rig.folder)
    assert found.step == 2
    saved = torch.load(found.folder / "engine" / "weights.pt", weights_only=True)
    assert torch.equal(saved["weight"].detach(), torch.ones(1000))
    assert saved["lists"] == {"a": [1]}
    assert rig.said == []


def test_an_update_waits_for_the_copy_and_nothing_else_does(rig, monkeypatch):
    """The copy has forward and backward of the next step, of every micro-batch of it."""
    going, copied = threading.Event(), rig.saver._memory.copy

    def slow():
        assert going.wait(30)
        copied()

    monkeypatch.setattr(rig.saver._memory, "copy", slow)
    rig.saver.save(2)
    rig.engine.accumulated = False
    rig.saver.poll()
    rig.saver.engine.step()
    assert rig.engine.steps == 1
    rig.engine.accumulated = True
    update = threading.Thread(target=rig.saver.engine.step)
    update.start()
    update.join(0.2)
    assert (update.is_alive(), rig.engine.steps) == (True, 1)
    going.set()
    update.join(30)
    rig.saver.wait()
    saved = torch.load(newest_checkpoint(rig.folder).folder / "engine" / "weights.pt", weights_only=True)
    assert torch.equal(saved["weight"].detach(), torch.ones(1000))
    assert rig.engine.weight.eq(7).all()


def test_no_memory_for_the_copy_ends_the_run_before_its_update(rig, monkeypatch):
    def full():
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rig.saver._memory, "copy", full)
    rig.saver.save(2)
    with pytest.raises(CheckpointError, match=r"0000002 cannot be written \(.*No space left on device"):
        rig.saver.engine.step()
    assert rig.engine.steps == 0
    assert newest_checkpoint(rig.folder).step == 1


def test_a_broken_state_is_not_copied_and_ends_the_run_within_the_next_step(rig):
    with torch.no_grad():
        rig.engine.weight[3] = float("inf")
    rig.saver.save(2)
    rig.saver.engine.step()
    with pytest.raises(CheckpointError, match="state after step 2 are not finite"):
        rig.saver.poll()
    assert newest_checkpoint(rig.folder).step == 1


def test_polling_completes_a_checkpoint(rig):
    rig.saver.save(2)
    while rig.saved == [1]:
        rig.saver.poll()
    assert newest_checkpoint(rig.folder).step == 2


def test_a_second_checkpoint_waits_for_the_first_and_says_so(rig, monkeypatch):
    monkeypatch.setattr(saving, "TOLD", 0.1)
    rig.signal(signal.SIGSTOP)
    rig.saver.save(2)
    threading.Timer(0.3, rig.signal, (signal.SIGCONT,)).start()
    rig.saver.save(3)
    assert rig.saved == [1, 2]
    [said] = rig.said
    assert said.startswith("Step 3 waited 0.")
    assert "for the checkpoint of step 2, which was still being written" in said
    rig.saver.wait()
    assert rig.saved == [1, 2, 3]


def test_a_death_of_the_writer_is_told_and_the_checkpoint_before_stands(rig):
    rig.signal(signal.SIGSTOP)
    rig.saver.save(2)
    rig.signal(signal.SIGKILL)
    with pytest.raises(CheckpointError, match=rf"0000002 cannot be written \(.*, {rig.writer}, died of signal 9; on "):
        rig.saver.wait()
    assert newest_checkpoint(rig.folder).step == 1
    rig.saver.wait()


def test_signals_that_end_a_job_are_not_the_writers(rig):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        rig.signal(number)
    rig.saver.save(2)
    rig.saver.wait()
    assert rig.saver._writer._process.pid == rig.writer


def test_a_disk_that_refuses_is_told_with_its_room(rig):
    rig.engine.name = "read_me.py/weights.pt"
    rig.saver.save(2)
    with pytest.raises(
        CheckpointError, match=r"cannot be written \(.*read_me.py.*; on .*GB are free there\); give another run_dir"
    ):
        rig.saver.wait()
    assert newest_checkpoint(rig.folder).step == 1


def test_torch_reads_what_memory_holds_and_memory_is_used_again(tmp_path):
    engine = MemoryCheckpointEngine()
    for size in (3000, 10, 2000):
        engine.clear()
        state = {"a": torch.arange(size), "b": [torch.ones(3, dtype=torch.bfloat16), None], "c": 5}
        engine.save(state, "one")
        assert engine.files == []
        engine.copy()
        [descriptor] = engine.descriptors()
        [(_, length)] = engine.files
        (tmp_path / "file").write_bytes(os.pread(descriptor, length, 0))
        loaded = torch.load(tmp_path / "file", mmap=True)
        assert torch.equal(loaded["a"], state["a"])
        assert torch.equal(loaded["b"][0], state["b"][0])
        assert loaded["c"] == 5
    engine.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_memory_that_ends_anywhere_is_told_as_that():
    """torch itself says `enforce fail … unexpected pos` where the end of a file is what does not fit."""
    state = {"a": torch.arange(3000), "b": [torch.ones(3)] * 3}
    engine = MemoryCheckpointEngine()
    engine.save(state, "one")
    engine.copy()
    [(_, size)] = engine.files
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        for limit in (0, 10, size // 2, size - 300, size - 100, size - 1):
            engine.clear()
            engine.save(state, "one")
            os.ftruncate(engine._memory[0], 0)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
            with pytest.raises(OSError, match="File too large"):
                engine.copy()
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        engine.close()
