"""How long DeepSpeed's launcher waits for the processes that it ends: the run's limits, where it is told to stop."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from sclds.train import on_host
from sclds.train.launcher import STOP_SECONDS

SLEEPS = "import time; print('ready', flush=True); time.sleep(60)"
SAVES = "import signal, sys, time; signal.signal(15, lambda *_: (time.sleep(1), print('saved'), sys.exit()));" + SLEEPS
STAYS = "import signal; signal.signal(15, signal.SIG_IGN);" + SLEEPS


@pytest.fixture
def launcher(monkeypatch):
    """DeepSpeed's launcher after it has set its handlers, and what it ends processes with."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    ends = []
    monkeypatch.setattr(on_host.launch, "terminate_process_tree", None)
    monkeypatch.setattr(on_host.launch.signal, "signal", signal.signal)

    def main():
        ends.append(on_host.launch.terminate_process_tree)
        on_host.launch.signal.signal(signal.SIGTERM, lambda *given: None)

    monkeypatch.setattr(on_host.launch, "main", main)
    on_host.main()
    yield ends[0]
    for number, handler in before.items():
        on_host._set_handler(number, handler)


def child(code):
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    process.stdout.readline()
    return process


def test_a_stop_leaves_the_seconds_of_the_runs_limits(launcher, monkeypatch):
    monkeypatch.setenv(STOP_SECONDS, "5400")
    monkeypatch.setattr(on_host, "FAILED_SECONDS", 0.1)
    os.kill(os.getpid(), signal.SIGTERM)
    process = child(SAVES)
    launcher(process.pid)
    assert process.stdout.read() == b"saved\n"


def test_beside_one_that_failed_the_others_have_deepspeeds_time(launcher, monkeypatch):
    monkeypatch.setattr(on_host, "FAILED_SECONDS", 0.3)
    process = child(STAYS)
    begun = time.monotonic()
    launcher(process.pid)
    assert process.wait() == -signal.SIGKILL
    assert time.monotonic() - begun < 30


def test_the_time_is_deepspeeds_own():
    """It is said to be so; if theirs changes, this one has to."""
    import inspect

    text = inspect.getsource(on_host.launch.terminate_process_tree)
    assert f"timeout={on_host.FAILED_SECONDS:.0f})" in text


def test_a_process_that_is_gone_is_none_to_end(launcher):
    process = child("print()")
    process.wait()
    with pytest.raises(psutil.Error):  # DeepSpeed takes it for what it is
        launcher(process.pid)
