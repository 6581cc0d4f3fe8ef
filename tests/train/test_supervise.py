"""A run is started again after faults that another start can mend, and after no others."""

import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from sclds.run.checkpoints import STATE_FILE, checkpoint_name, newest_checkpoint
from sclds.run.events import Events, read_events
from sclds.run.folder import RunFolder, read_metrics
from sclds.train.launch import launcher_environment
from sclds.train.supervise import Restarts, Supervisor, fault_of
from tests.train.test_bad_days import Job, until
from tests.train.test_killed_run import CONFIG, LIMIT, SETTINGS


class Starts:
    """A launcher whose starts do as they are told: write events, save a checkpoint, end with a code."""

    def __init__(self, folder, *ends):
        self.folder, self.ends, self.hosts = RunFolder(folder), list(ends), []

    def __call__(self, hosts):
        self.hosts.append(hosts)
        code, step, *kinds = self.ends[len(self.hosts) - 1]
        events = Events(self.folder.events, 0)
        events.write("start", "a process begins")
        for kind, *facts in kinds:
            events.write(kind, f"because of {kind}", step, **(facts[0] if facts else {}))
        if step:
            saved = self.folder.checkpoints / checkpoint_name(step) / STATE_FILE
            saved.parent.mkdir(parents=True, exist_ok=True)
            saved.write_text(json.dumps({"step": step, "world_size": 1, "config": {}}))
        return SimpleNamespace(wait=lambda: code, poll=lambda: code)


def supervised(tmp_path, *ends, most=5, slots=None, fewest=None, answers=lambda host: True, fits=lambda count: True):
    """Return the exit code, the starts' hosts, and what was said."""
    starts, said = Starts(tmp_path, *ends), []
    slots = slots or {"localhost": 2}
    code = Supervisor(tmp_path, slots, Restarts(most, fewest), starts, fits, said.append, answers).run()
    return code, starts.hosts, said


LOST = ("failure", {"type": "lost_peer", "user": False})


def test_a_fault_is_followed_by_a_start_and_the_end_by_none(tmp_path):
    code, hosts, said = supervised(tmp_path, (247, 4, LOST), (1, 8, LOST), (0, 9, ("finish",)))
    assert (code, len(hosts)) == (0, 3)
    assert [line.split(":")[0] for line in said] == ["Restart 1 of 5 from step 4", "Restart 2 of 5 from step 8"]
    restarts = [event for event in read_events(tmp_path / "events.jsonl") if event.kind == "restart"]
    assert [(event.rank, event.step) for event in restarts] == [(None, 4), (None, 8)]


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ((2, 4), 2),
        ((1, 4, ("failure", {"type": "DataError", "user": True})), 1),
        ((1, 4, ("stop",)), 1),
        ((0, 4, ("stop",)), 0),
        ((0, 9, ("finish",)), 0),
    ],
)
def test_what_the_user_did_and_orderly_ends_are_final(tmp_path, end, code):
    assert supervised(tmp_path, end)[:2] == (code, [{"localhost": 2}])


def test_a_launcher_that_was_killed_says_0_and_is_started_again(tmp_path):
    """DeepSpeed's runner ends with 0 when its process on the host dies of a signal."""
    assert len(supervised(tmp_path, (0, 4, ("launcher",), ("stop",)), (0, 9, ("finish",)))[1]) == 2
    assert fault_of(0, []) is None, "a run that is done shows its results and writes nothing"


def test_the_same_fault_twice_without_a_newer_checkpoint_is_enough(tmp_path):
    same = ("failure", {"type": "RuntimeError", "user": False})
    code, hosts, said = supervised(tmp_path, (1, 4, same), (1, 4, LOST), (1, 4, same), (1, 8, same), (1, 8, same))
    assert (code, len(hosts)) == (1, 5)
    assert "the same fault twice, and no newer checkpoint: because of failure" in said[-1]
    assert read_events(tmp_path / "events.jsonl")[-1].kind == "gave_up"


def test_restarts_are_counted(tmp_path):
    ends = [(1, step, LOST) for step in (1, 2, 3)]
    code, hosts, said = supervised(tmp_path, *ends, most=2)
    assert (code, len(hosts)) == (1, 3)
    assert "2 restarts were allowed" in said[-1]


def test_a_host_that_is_gone_is_left_out_where_that_is_allowed(tmp_path, monkeypatch):
    slots = {"one": 8, "two": 8, "three": 8}
    ends = [(1, 4, LOST), (0, 9, ("finish",))]
    given = {"slots": slots, "answers": lambda host: host != "two"}
    _, hosts, said = supervised(tmp_path / "fewer", *ends, fewest=2, **given)
    assert hosts == [slots, {"one": 8, "three": 8}]
    assert "without two" in said[0]
    monkeypatch.setattr("sclds.train.supervise.HOST_PATIENCE", 0)
    monkeypatch.setattr("sclds.train.supervise._BETWEEN_LOOKS", 0)
    for name, fewest, fits in (("all", None, lambda n: True), ("three", 3, lambda n: True), ("size", 2, lambda n: 0)):
        code, hosts, said = supervised(tmp_path / name, *ends, fewest=fewest, fits=fits, **given)
        assert (code, len(hosts)) == (1, 1)
        assert "two does not answer" in said[0]
        assert "hosts do not answer" in said[-1]


class Supervised(Job):
    """`sclds launch --max-restarts` in the background."""

    def __init__(self, folder, log, *settings):
        self.log = log
        hostfile = folder.parent / "hosts"
        hostfile.write_text("localhost slots=2\n")
        words = ["--hostfile", str(hostfile), "--config", str(CONFIG), "--max-restarts", "2", "--master-port", "29723"]
        command = [sys.executable, "-m", "sclds", "launch", *words, *SETTINGS, f"run_dir={folder}", *settings]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command, env=launcher_environment(2), stdout=output, stderr=output, start_new_session=True
            )


@pytest.mark.multiprocess
@pytest.mark.slow
def test_a_killed_rank_costs_a_restart_and_no_step(tmp_path):
    folder = tmp_path / "run"
    job = Supervised(folder, tmp_path / "log", "data.heldout=[]")
    try:
        # a checkpoint is whole some steps after its own
        until(lambda: newest_checkpoint(folder / "checkpoints") is not None or job.process.poll() is not None)
        assert job.process.poll() is None, job.said()
        os.kill(job.workers()[1].number, signal.SIGKILL)
        assert job.process.wait(LIMIT) == 0, job.said()
    finally:
        job.kill()
    assert "Restart 1 of 2 from step 4: another process of this run is gone" in job.said()
    assert [line["step"] for line in read_metrics(folder / "metrics.jsonl")] == list(range(1, 10))
    kinds = [event.kind for event in read_events(folder / "events.jsonl")]
    for kind in ("failure", "restart", "start", "resume", "training", "checkpoint", "finish"):
        assert kind in kinds
        kinds = kinds[kinds.index(kind) + 1 :]
