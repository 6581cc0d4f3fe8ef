"""Processes that measure end with their launcher, and with those that they wait for."""

import os
import signal
import subprocess
import sys
import time

import pytest

from sclds.run.processes import is_running, process
from tests.train.peers import free_port

MEASURES = """
import os, sys, time
from sclds.config.schema import LimitsConfig
from sclds.train import watchdog
watchdog.INTERVAL, watchdog._SILENT = 0.2, 1.0
from sclds.train.measuring import measuring
limits = LimitsConfig(evaluation=float(sys.argv[1]))
with measuring(limits) as (group, limit), limit("evaluation", "evaluation"):
    print(os.getpid(), flush=True)
    time.sleep(300) if sys.argv[2] == "hangs" else group.barrier()
"""


def measuring(limit, what, rank=0, world=1, port=0, prefix=()):
    given = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port or free_port()}
    shared = {"MASTER_ADDR": "127.0.0.1", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    environment = os.environ | shared | {name: str(value) for name, value in given.items()}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [*prefix, sys.executable, "-c", MEASURES, str(limit), what]
    return subprocess.Popen(command, env=environment, **pipes)


@pytest.mark.multiprocess
def test_a_rank_that_hangs_is_named_at_the_limit_of_an_evaluation():
    port = free_port()
    ranks = [measuring(5, what, rank, 2, port) for rank, what in enumerate(("waits", "hangs"))]
    said = [one.communicate(timeout=60) for one in ranks]
    assert [one.returncode for one in ranks] == [1, 1]
    assert any("in evaluation (limits.evaluation=5)" in text for _, text in said), "the first to speak ends the others"


@pytest.mark.multiprocess
def test_one_alone_takes_as_long_as_it_takes():
    alone = measuring(0.1, "waits")
    assert alone.wait(60) == 0
    alone = measuring(0.1, "hangs")
    alone.stdout.readline()
    with pytest.raises(subprocess.TimeoutExpired):
        alone.wait(3)
    alone.kill()


@pytest.mark.multiprocess
def test_it_ends_with_its_launcher(tmp_path):
    launcher = tmp_path / "torchrun"  # known by its name
    launcher.write_text("import subprocess, sys\nsubprocess.Popen(sys.argv[1:]).wait()\n", encoding="utf-8")
    started = measuring(1000, "hangs", prefix=(sys.executable, str(launcher)))
    worker = process(int(started.stdout.readline()))
    started.send_signal(signal.SIGKILL)
    end = time.monotonic() + 30
    while is_running(worker.number, worker.started) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_running(worker.number, worker.started)
    assert f"(torchrun, process {started.pid}) is gone; this process ends" in started.stderr.read()
