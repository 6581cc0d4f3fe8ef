"""Workers end with their launcher, and only with their launcher."""

import os
import signal
import subprocess
import sys
import time

import pytest

from sclds.run.processes import Process, is_running, process
from sclds.train.launcher import watched_launchers

BASH = ("-bash",)
SSHD = ("sshd: someone@notty",)
RUNNER = ("/v/bin/python", "/v/bin/deepspeed", "--num_gpus", "2", "launchers/pretrain.py")
RUNNER_MODULE = ("/v/bin/python", "-m", "deepspeed.launcher.runner", "--module", "sclds.cli.train")
ON_HOST = ("/v/bin/python", "-u", "-m", "deepspeed.launcher.launch", "--world_info=e30=")
OUR_ON_HOST = ("/v/bin/python", "-u", "-m", "sclds.train.on_host", "--world_info=e30=")
TORCHRUN = ("/v/bin/python", "/v/bin/torchrun", "--nproc-per-node", "2")
REMOTE = ("bash", "-c", "cd /work; deepspeed.launcher.launch")
EDITOR = ("vim", "deepspeed")


@pytest.mark.parametrize(
    ("commands", "watched"),
    [
        ([BASH, SSHD], 0),
        ([RUNNER, BASH, SSHD], 1),
        ([ON_HOST, RUNNER, BASH, SSHD], 2),
        ([ON_HOST, RUNNER_MODULE, BASH], 2),
        ([TORCHRUN, BASH, SSHD], 1),
        ([("numactl", "-C", "0"), ON_HOST, RUNNER, BASH], 3),
        ([ON_HOST, REMOTE, SSHD, SSHD], 3),
        ([ON_HOST, ("tini",)], 1),
        ([OUR_ON_HOST, REMOTE, SSHD], 3),
        ([OUR_ON_HOST, RUNNER_MODULE, BASH], 2),
        ([], 0),
    ],
)
def test_which_processes_have_to_live(commands, watched):
    chain = [Process(100 - place, place, 99 - place, command) for place, command in enumerate(commands)]
    assert watched_launchers(chain) == chain[:watched]


WORKER = """
import sys, time
from sclds.train.interrupt import StopRequest
from sclds.train.launcher import LauncherWatch
with StopRequest() as stop, LauncherWatch():
    print("ready", flush=True)
    while not stop.requested:
        time.sleep(0.05)
open(sys.argv[1], "w", encoding="utf-8").write("saved")
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_stops_and_saves_when_its_launcher_is_killed(tmp_path, number):
    (tmp_path / "worker.py").write_text(WORKER, encoding="utf-8")
    launcher = tmp_path / "torchrun"  # known by its name
    launcher.write_text(
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, {str(tmp_path / 'worker.py')!r}, {str(tmp_path / 'done')!r}])\n"
        "print(child.pid, flush=True)\nchild.wait()\n",
        encoding="utf-8",
    )
    started = subprocess.Popen(
        [sys.executable, str(launcher)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    lines = sorted([started.stdout.readline(), started.stdout.readline()])
    worker = process(int(lines[0]))
    os.kill(started.pid, number)
    started.wait()
    end = time.monotonic() + 60
    while is_running(worker.number, worker.started) and time.monotonic() < end:
        time.sleep(0.05)
    assert (tmp_path / "done").read_text() == "saved"
    said = started.stderr.read()
    assert f"error: the launcher (torchrun, process {started.pid}) is gone; this run saves and stops" in said


OVER_SSH = """
import os, sys
from sclds.run.processes import process
from sclds.train import launcher
own = process(os.getpid())
chain = [own._replace(command=words) for words in (("-m", "sclds.train.on_host"), ("sshd: someone@notty",))]
launcher.ancestors = lambda number: chain
"""


def test_a_worker_stops_and_saves_when_nobody_reads_its_remote_shell(tmp_path):
    """As where pdsh was killed and left `ssh` behind: processes live on, and the connection too."""
    (tmp_path / "worker.py").write_text(OVER_SSH + WORKER, encoding="utf-8")
    command = [sys.executable, str(tmp_path / "worker.py"), str(tmp_path / "done")]
    worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert worker.stdout.readline() == "ready\n"
    time.sleep(1.5)
    assert worker.poll() is None, "its output is read"
    worker.stdout.close()
    assert worker.wait(60) == 0
    assert (tmp_path / "done").read_text() == "saved"
    assert "error: the launcher is gone: nobody reads what this remote shell prints; this run saves" in (
        worker.stderr.read()
    )
