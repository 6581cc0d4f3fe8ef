"""A checkpoint of a state that lies on a device: what is written is the state, and only the copy's thread waits."""

import contextlib
from types import SimpleNamespace

import pytest
import torch

from sclds.config.errors import CheckpointError
from sclds.run.checkpoints import newest_checkpoint
from sclds.train.copying import Copy
from sclds.train.saver import CheckpointSaver
from tests.device.checks import files_of
from tests.device.pretend import PretendTensor, host_reads, pretend_device
from tests.train.one_process import OneProcess
from tests.train.synthetic import tiny_config
from tests.train.test_saver import Engine


class Group(OneProcess):
    def __init__(self, device):
        self.device = device


class EngineThere(Engine):
    """The engine of the saver's tests, with weight and moments on a device."""

    def __init__(self, device):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.arange(7.0).to(device))
        self.optimizer = torch.optim.AdamW([self.weight])
        self.weight.grad = torch.ones(7).to(device)
        self.optimizer.step()

    def save_checkpoint(self, folder, tag, client_state, save_latest):
        self.lists = {"optimizer": self.optimizer.state_dict()}
        super().save_checkpoint(folder, tag, client_state, save_latest)


def saved(folder, device):
    """Save a state, and update it as soon as that is allowed; return what is in the file, and who waited."""
    engine = EngineThere(device)
    saver = CheckpointSaver(engine, folder, tiny_config(), Group(device))
    engine.lists = {"a": []}
    with contextlib.closing(saver), host_reads() as reads:
        saver.save(2)
        saver.finish_copy()
        with torch.no_grad():
            engine.weight.fill_(9)
        saver.wait()
    return torch.load(newest_checkpoint(folder).folder / "engine" / "weights.pt", weights_only=True), reads


def test_a_checkpoint_holds_what_was_there_and_only_its_copy_waits(tmp_path):
    expected, _ = saved(tmp_path / "cpu", torch.device("cpu"))
    with pretend_device() as device:
        found, reads = saved(tmp_path / "there", device)
    assert not torch.equal(found["weight"], torch.full((7,), 9.0))
    assert type(found["weight"].detach()) is torch.Tensor, "a checkpoint is of no device"
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert set(files_of(reads)) == {"guard.py", "copying.py"}
    assert all(read.endswith("in the thread copy") for read in reads), "training goes on"


def test_a_state_there_that_is_not_finite_is_not_saved(tmp_path):
    with pretend_device() as device:
        engine = EngineThere(device)
        saver = CheckpointSaver(engine, tmp_path, tiny_config(), Group(device))
        with torch.no_grad():
            engine.weight[3].fill_(float("nan"))
        with contextlib.closing(saver):
            saver.save(1)
            with pytest.raises(CheckpointError, match="not finite"):
                saver.wait()
    assert newest_checkpoint(tmp_path) is None


def test_the_copy_travels_on_a_stream_of_its_own_behind_what_was_computed(monkeypatch):
    """CUDA's calls written down, since there is no stream to try: the order is what keeps the copy whole."""
    told = []

    class Stream:
        def __init__(self, device):
            told.append(f"new stream on {device}")

        def wait_event(self, event):
            told.append(f"own stream waits for {event}")

    @contextlib.contextmanager
    def inside(of):
        told.append(f"enter {'own stream' if isinstance(of, Stream) else of}")
        yield
        told.append(f"leave {'own stream' if isinstance(of, Stream) else of}")

    computing = SimpleNamespace(record_event=lambda: told.append("event behind the step") or "the event")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: computing)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "device", inside)
    monkeypatch.setattr(torch.cuda, "stream", inside)
    copy = Copy(lambda: told.append("copy") or True, torch.device("cuda:1"))
    assert copy.result()
    assert told == [
        "event behind the step",
        "new stream on cuda:1",
        "own stream waits for the event",
        *("enter cuda:1", "enter own stream", "copy", "leave own stream", "leave cuda:1"),
    ]


def test_a_tensor_there_is_saved_by_waiting_for_it():
    with pretend_device() as device, host_reads() as reads:
        tensor = torch.ones(2).to(device)
        assert isinstance(tensor, PretendTensor)
        tensor.__reduce_ex__(2)
    assert [read.partition(" ")[2] for read in reads] == ["saved"]
