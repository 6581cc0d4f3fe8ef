"""A run folder has one writer: the living holder is respected, a dead one's lease is taken over."""

import json
import os
import subprocess
import sys
import time

import pytest

from sclds.run import lease as module
from sclds.run.lease import LEASE_FILE, Lease, LeaseHeldError
from sclds.run.processes import is_running, process, started_at


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "INTERVAL", 0.05)
    monkeypatch.setattr(module, "PATIENCE", 0.6)
    monkeypatch.setattr(module, "_SETTLE", 0.01)


class Said(list):
    def __call__(self, text):
        self.append(text)


def holder(folder, **changes):
    """Write the lease of some holder."""
    own = {"host": "elsewhere", "process": 4711, "started": 5, "beats": 1} | changes
    (folder / LEASE_FILE).write_text(json.dumps(own), encoding="utf-8")
    return own


def test_a_free_folder_is_taken_kept_and_given_back(tmp_path):
    lease = Lease(tmp_path / "run", Said())
    lease.acquire()
    first = json.loads((tmp_path / "run" / LEASE_FILE).read_text())
    time.sleep(0.3)
    later = json.loads((tmp_path / "run" / LEASE_FILE).read_text())
    assert later["process"] == first["process"] == os.getpid()
    assert later["beats"] > first["beats"]
    lease.release()
    assert not (tmp_path / "run" / LEASE_FILE).exists()


def test_a_living_process_of_this_host_is_named(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        holder(tmp_path, host=Lease(tmp_path, Said())._own["host"], process=other.pid, started=started_at(other.pid))
        with pytest.raises(LeaseHeldError, match=f"is written by process {other.pid} on .*another run_dir"):
            Lease(tmp_path, Said()).acquire()
    finally:
        other.kill()
        other.wait()
    said = Said()
    lease = Lease(tmp_path, said)
    lease.acquire()
    lease.release()
    assert said == [
        f"The lease of {tmp_path} is taken over from process {other.pid} on {lease._own['host']}, "
        "which does not run any more"
    ]


def test_a_number_given_out_again_is_another_process(tmp_path):
    lease = Lease(tmp_path, Said())
    holder(tmp_path, host=lease._own["host"], process=os.getpid(), started=started_at(os.getpid()) - 1)
    lease.acquire()
    lease.release()


def test_a_holder_on_another_host_is_waited_for(tmp_path):
    holder(tmp_path)
    said = Said()
    lease = Lease(tmp_path, said)
    lease.acquire()
    lease.release()
    assert "is held by process 4711 on elsewhere; waiting" in said[0]
    assert "taken over from process 4711 on elsewhere" in said[1]


def test_a_heartbeat_from_another_host_refuses(tmp_path, monkeypatch):
    holder(tmp_path)
    beats = iter(range(2, 100))
    monkeypatch.setattr(module.time, "sleep", lambda seconds: holder(tmp_path, beats=next(beats)))
    with pytest.raises(LeaseHeldError, match="is written by process 4711 on elsewhere"):
        Lease(tmp_path, Said()).acquire()


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_a_damaged_lease_is_taken_over_with_a_word(tmp_path, text):
    (tmp_path / LEASE_FILE).write_text(text, encoding="utf-8")
    said = Said()
    lease = Lease(tmp_path, said)
    lease.acquire()
    lease.release()
    assert "process ? on an unknown host" in said[0]


def test_a_folder_that_was_taken_over_is_noticed_and_left_to_the_other(tmp_path):
    lease = Lease(tmp_path, Said())
    lease.acquire()
    holder(tmp_path)
    end = time.monotonic() + 10
    while lease.lost is None and time.monotonic() < end:
        time.sleep(0.02)
    assert lease.lost == "process 4711 on elsewhere"
    lease.release()
    assert json.loads((tmp_path / LEASE_FILE).read_text())["host"] == "elsewhere"


def test_processes_are_known_by_number_and_start():
    own = process(os.getpid())
    assert own.parent == os.getppid()
    assert is_running(os.getpid(), own.started)
    assert not is_running(os.getpid(), own.started + 1)
    assert not is_running(None, own.started)
    ended = subprocess.Popen(["true"])
    while process(ended.pid) is not None:  # a zombie until its parent waits
        time.sleep(0.01)
    assert not is_running(ended.pid, started_at(ended.pid))
    ended.wait()
