"""Bad days in real processes: a second job, a stopped rank, a killed launcher, a stop that comes while measuring."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from sclds.config.overrides import replaced
from sclds.run.checkpoints import newest_checkpoint
from sclds.run.folder import RunFolder, read_metrics
from sclds.run.lease import LEASE_FILE
from sclds.run.processes import is_running, process
from sclds.train.launch import launcher_environment, pretrain_command
from tests.train.test_killed_run import CONFIG, LIMIT, SETTINGS

PROCESSES = 2
LONG = "schedule.steps=100000"


class Job:
    """A run in the background, with what it printed."""

    def __init__(self, folder, log, *settings):
        self.log = log
        command = pretrain_command(CONFIG, replaced([*SETTINGS, f"run_dir={folder}"], settings), PROCESSES)
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command, env=launcher_environment(PROCESSES), stdout=output, stderr=output, start_new_session=True
            )

    def said(self):
        return self.log.read_text(encoding="utf-8", errors="replace")

    def workers(self):
        """Return the training processes in the order of their ranks."""
        found = []
        for number in (int(name) for name in os.listdir("/proc") if name.isdigit()):
            one = process(number)
            worker = one is not None and any(argument.startswith("--local_rank") for argument in one.command)
            if worker and os.getsid(number) == self.process.pid:
                found.append(one)
        return sorted(found, key=lambda one: next(a for a in one.command if a.startswith("--local_rank")))

    def kill(self):
        for number in {self.process.pid, *(one.number for one in self.workers())}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        self.process.wait()


def until(condition, limit=LIMIT):
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.multiprocess
@pytest.mark.slow
def test_a_second_job_is_refused_and_a_stopped_rank_is_named(tmp_path):
    folder = tmp_path / "run"
    job = Job(folder, tmp_path / "first.log", LONG, "limits.step=15")
    try:
        until(lambda: read_metrics(folder / "metrics.jsonl") or job.process.poll() is not None)
        assert job.process.poll() is None, job.said()
        second = Job(folder, tmp_path / "second.log", LONG)
        try:
            assert second.process.wait(LIMIT) != 0
        finally:
            second.kill()
        rank0, rank1 = job.workers()
        assert f"error: {folder} is written by process {rank0.number} on " in second.said()
        assert "Traceback" not in second.said()
        os.kill(rank1.number, signal.SIGSTOP)
        job.process.wait(LIMIT)
        assert re.search(
            r"error: rank 0 on \S+ waited 1\d s in .*limits.step=15.*no sign of life from rank 1 on", job.said()
        )
    finally:
        job.kill()


@pytest.mark.multiprocess
@pytest.mark.slow
def test_workers_save_and_end_when_their_launcher_is_killed(tmp_path):
    folder = tmp_path / "run"
    job = Job(folder, tmp_path / "log", LONG, "checkpoint.every=100000")
    try:
        until(lambda: read_metrics(folder / "metrics.jsonl") or job.process.poll() is not None)
        workers = job.workers()
        assert len(workers) == PROCESSES, job.said()
        job.process.kill()
        job.process.wait()
        until(lambda: not any(is_running(one.number, one.started) for one in workers))
    finally:
        job.kill()
    assert "is gone; this run saves and stops" in job.said()
    steps = read_metrics(folder / "metrics.jsonl")[-1]["step"]
    assert newest_checkpoint(folder / "checkpoints").step == steps
    assert not (folder / LEASE_FILE).exists()


MEASURING = {
    "before the first step": ([], "Measuring losses on held-out data", {0}),
    "between steps": (["evaluation.tasks=[retrieval]", "evaluation.every=1"], "step 1/", {2, 3}),
    "after the last step": (["evaluation.tasks=[retrieval]", "schedule.steps=1"], "Measuring retrieval", {1}),
}
"""Settings under which a run measures for seconds, what it says just before, and the steps after which it may save."""


@pytest.mark.multiprocess
@pytest.mark.slow
@pytest.mark.parametrize("when", MEASURING)
def test_a_stop_does_not_wait_for_a_measurement_and_is_a_clean_one(tmp_path, when):
    settings, before, steps = MEASURING[when]
    folder, hosts, log = tmp_path / "run", tmp_path / "hosts", tmp_path / "log"
    hosts.write_text(f"localhost slots={PROCESSES}\n")
    words = [*replaced(SETTINGS, ["evaluation.batch_size=1", *settings]), f"run_dir={folder}"]
    command = [sys.executable, "-m", "sclds", "launch", "--hostfile", str(hosts), "--config", str(CONFIG), *words]
    with log.open("wb") as output:
        job = subprocess.Popen(command, env=launcher_environment(PROCESSES), stdout=output, stderr=output)
    try:
        until(lambda: before in log.read_text() or job.poll() is not None)
        time.sleep(0.3)  # a step; a stop that comes in it is one that comes before the measurement after it
        job.terminate()
        assert job.wait(LIMIT) == 0, log.read_text()
    finally:
        job.kill()
    said = log.read_text()
    assert "This measurement is given up: the run was asked to stop" in said
    (start,) = RunFolder(folder).read_starts()
    assert start.outcome == "stopped"
    assert start.last_step in steps
    assert newest_checkpoint(folder / "checkpoints").step == start.last_step
    assert f"Stopped after step {start.last_step} of" in said
    assert RunFolder(folder).read_results().get("steps") is None, "what was given up is no result"
