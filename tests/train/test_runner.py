"""How the launcher's exit code follows from the end of what it started."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from sclds.run.environment import Start
from sclds.run.processes import process as running
from sclds.train import runner

_PDSH = """#!/bin/bash
echo "pdsh@here: node-b: ssh exited with exit code 2" >&2
exec sleep 60
"""


def launch(words, given, said):
    """Be the launcher, with a stand-in for DeepSpeed's runner: it starts `words`, sets handlers, waits, exits."""

    def started(_):
        child = subprocess.Popen(words)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *given: os._exit(1))
        child.wait()
        if child.returncode > 0:
            sys.exit(child.returncode)

    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT), 2)
    sys.stderr = os.fdopen(2, "w")
    runner.runner.main = started
    os._exit(runner.main(given))


def run(tmp_path, words, folder=True, while_it_runs=lambda process: None):
    """Return the launcher's exit code and what it said."""
    given = [str(tmp_path)] if folder else ["--quiet"]
    process = multiprocessing.get_context("fork").Process(target=launch, args=(words, given, tmp_path / "said"))
    process.start()
    while_it_runs(process)
    process.join(60)
    return process.exitcode, (tmp_path / "said").read_text()


@pytest.mark.parametrize(
    ("script", "code", "told"),
    [
        ("exit 0", 0, ""),
        ("exit 2", 2, ""),
        ("exit 247", 1, ""),
        ("kill -9 $$", 1, "was ended by SIGKILL"),
        ("kill -15 $$", 1, "was ended by SIGTERM"),
    ],
)
@pytest.mark.parametrize("folder", [True, False])
def test_the_exit_code_is_that_of_the_run(tmp_path, script, code, told, folder):
    found, said = run(tmp_path, ["bash", "-c", script], folder)
    assert (found, told in said) == (code, True), said


def stop(folder, outcome):
    """Return what stops a run that saves for a while and then writes its outcome; None: it had not begun to train."""

    def act(process):
        (folder / "lease.json").write_text("{}")
        while not (folder / "began").exists():
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGTERM)
        time.sleep(1)
        assert process.is_alive(), "it did not wait for the run to save"
        empty = {"versions": {}, "git": None, "hosts": [], "world_size": 2, "parameters": 1}
        peaks = {"peak_host_bytes": 1, "peak_device_bytes": 0, "first_step": 0, "last_step": 1}
        entry = Start(started="a", last_seen="b", ended=None, outcome=outcome or "", **empty, **peaks)
        if outcome is not None:
            (folder / "environment.json").write_text(json.dumps([entry.model_dump()]))
        (folder / "lease.json").unlink()

    return act


NOT_SAVED = "error: the run was told to stop and did not save"
STOPPED = {
    "stopped": (0, ""),
    "finished": (0, ""),
    "failed: disk": (1, NOT_SAVED),
    "": (1, NOT_SAVED),
    None: (0, "Stopped before training began: there was nothing to save"),
}


@pytest.mark.parametrize("outcome", STOPPED)
def test_a_stop_waits_for_the_checkpoint_and_is_no_failure(tmp_path, outcome):
    code, told = STOPPED[outcome]
    words = ["bash", "-c", f"touch {tmp_path / 'began'}; exec sleep 60"]
    found, said = run(tmp_path, words, while_it_runs=stop(tmp_path, outcome))
    assert found == code, said
    assert "Stopping: the run ends its step and saves" in said
    assert told in said


def test_when_a_host_fails_the_others_are_not_left_waiting(tmp_path, monkeypatch):
    (tmp_path / "pdsh").write_text(_PDSH)
    (tmp_path / "pdsh").chmod(0o755)
    monkeypatch.setattr(runner, "OTHERS", 0.5)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    found, said = run(tmp_path, ["pdsh"])
    assert found == 2
    assert "error: node-b ended with exit code 2, as its own message says; the other hosts are stopped" in said


def test_what_it_started_does_not_outlive_it(tmp_path):
    number = tmp_path / "number"

    def act(process):
        while not number.exists():
            time.sleep(0.05)
        process.kill()

    run(
        tmp_path,
        ["bash", "-c", f"echo $$ > {number}.part; mv {number}.part {number}; exec sleep 60"],
        while_it_runs=act,
    )
    end = time.monotonic() + 20
    while (alive := running(int(number.read_text()))) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive


def pdsh_of(process):
    """Return the pdsh that a launcher started, once both of its remote shells are there."""
    while True:
        found = [one for one in psutil.Process(process.pid).children() if one.name().startswith("pdsh")]
        if found and len(found[0].children()) == 2:
            return found[0]
        time.sleep(0.05)


ENDS = {
    "the launcher is told to stop": lambda process, pdsh: process.terminate(),
    "pdsh is told to stop": lambda process, pdsh: pdsh.terminate(),
    "pdsh is killed": lambda process, pdsh: pdsh.kill(),
}


@pytest.mark.skipif(shutil.which("pdsh") is None, reason="pdsh is not installed")
@pytest.mark.parametrize("end", ENDS)
def test_no_remote_shell_is_left_behind(tmp_path, monkeypatch, end):
    """They end with the real pdsh, however that comes about; commands of this host stand in for ssh."""
    shells = []
    monkeypatch.setattr(runner, "stop_seconds", lambda: 0.0)

    def act(process):
        pdsh = pdsh_of(process)
        shells.extend(pdsh.children())
        ENDS[end](process, pdsh)

    found, said = run(tmp_path, ["pdsh", "-R", "exec", "-w", "node-a,node-b", "sleep", "600"], while_it_runs=act)
    _, alive = psutil.wait_procs(shells, timeout=20)
    for shell in alive:
        shell.kill()
    assert not alive
    assert found == (0 if end == "the launcher is told to stop" else 1), said
