"""A phase over its limit ends the process, with the ranks that held it up by name."""

import signal
import subprocess
import sys
import time

import pytest
import torch.distributed as dist

from sclds.train import watchdog as module
from sclds.train.watchdog import Sign, Watchdog, compared


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "INTERVAL", 0.05)
    monkeypatch.setattr(module, "_SILENT", 0.4)


def wait_for(codes):
    end = time.monotonic() + 20
    while not codes and time.monotonic() < end:
        time.sleep(0.02)
    return codes


def store():
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def test_a_phase_within_its_limit_is_left_alone():
    codes = []
    with Watchdog(0, 1, codes.append) as dog:
        with dog.phase("the step", "limits.step", 60):
            time.sleep(0.3)
        with dog.phase("outer", "limits.start", 0.5):  # an inner phase has its own limit, and the outer starts afresh
            for _ in range(4):
                with dog.phase("inner", "limits.step", 60):
                    time.sleep(0.2)
        time.sleep(0.3)
    assert codes == []


def test_processes_that_do_not_meet_end_with_the_address(monkeypatch, capsys):
    monkeypatch.setenv("MASTER_ADDR", "10.9.8.7")
    monkeypatch.setenv("MASTER_PORT", "29500")
    codes = []
    with Watchdog(1, 4, codes.append) as dog, dog.phase("the start", "limits.start", 0.1):
        assert wait_for(codes) == [1]
    said = capsys.readouterr().err
    assert "rank 1 on " in said
    assert "s in the start (limits.start=0.1); the 4 processes have not met at 10.9.8.7:29500" in said


def test_a_silent_rank_is_named_with_its_host_and_phase(capsys):
    shared, codes = store(), []
    frozen = Watchdog(1, 2, codes.append)
    frozen._host = "node7"
    with frozen.phase("a checkpoint", "limits.save", 60):
        frozen.meet(shared)  # gives one sign, and its thread never starts: a stopped process
        with Watchdog(0, 2, codes.append) as dog:
            dog.meet(shared)
            with dog.phase("the step", "limits.step", 0.2):
                assert wait_for(codes) == [1]
    assert "no sign of life from rank 1 on node7 (last in a checkpoint (limits.save=60))" in capsys.readouterr().err


HOLDS_THE_STORE = """
import time
import torch.distributed as dist
store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
print(store.port, flush=True)
time.sleep(600)
"""


@pytest.mark.multiprocess
def test_a_first_rank_that_is_stopped_holds_up_no_limit(monkeypatch, capfd):
    """It holds what all ranks ask, and a process that is stopped keeps its connections open and answers nothing."""
    monkeypatch.setattr(module, "_ANSWER", 0.5)
    with subprocess.Popen([sys.executable, "-c", HOLDS_THE_STORE], stdout=subprocess.PIPE) as rank0:
        try:
            port = rank0.stdout.readline().decode().strip()
            monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
            monkeypatch.setenv("MASTER_PORT", port)
            shared = dist.TCPStore("127.0.0.1", int(port), is_master=False, wait_for_workers=False)
            codes = []
            with Watchdog(1, 2, codes.append) as dog:
                dog.meet(shared)
                rank0.send_signal(signal.SIGSTOP)
                time.sleep(0.5)  # a sign of life is under way
                with dog.phase("the step", "limits.step", 0.5):
                    assert wait_for(codes) == [1]
            assert f"no sign of life from rank 0 at 127.0.0.1:{port}, which the others ask" in capfd.readouterr().err
        finally:
            rank0.kill()


SIGNS = {rank: Sign(f"node{rank // 8}", "the step", 10) for rank in range(32)}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "all ranks give signs of life in the same phase: a link"),
        ({9: Sign("node1", "data", 12)}, "others are elsewhere: rank 9 on node1 (last in data)"),
        ({9: Sign("node1", "the step", 10)}, "no sign of life from rank 9 on node1 (last in the step)"),
        ({rank: SIGNS[rank] for rank in range(8, 24)}, "and 8 more"),
    ],
)
def test_two_looks_tell_who_holds_the_others_up(changes, said):
    after = {rank: Sign(sign.host, sign.phase, 12) for rank, sign in SIGNS.items()} | changes
    assert said in compared(SIGNS, after, own=0)
