"""What a run records of where it ran."""

import json
import subprocess

import pytest
import torch

from sclds.machine.description import git_state, this_process, versions
from sclds.run.environment import Start
from sclds.run.folder import RunFolder
from sclds.train import record
from sclds.train.record import StartRecord, hosts_of
from tests.report.runs import start
from tests.train.one_process import OneProcess

FP32 = torch.float32


@pytest.fixture(autouse=True)
def measured(monkeypatch):
    """Count the measurements of the machine's peak, each of which finds one more."""
    peaks = []

    def measure(dtype, device):
        peaks.append(1e9 + len(peaks))
        return peaks[-1]

    monkeypatch.setattr(record, "measure_peak_flops", measure)
    return peaks


def test_the_peak_is_measured_once_on_machines_of_one_kind(tmp_path, measured):
    folder = RunFolder(tmp_path)
    first, second = (StartRecord(folder, OneProcess(), 1, step, print, FP32) for step in (0, 5))
    assert first.peak_flops == second.peak_flops == 1e9
    assert len(measured) == 1
    assert [one.peak_flops for one in folder.read_starts()] == [1e9, 1e9]
    others = folder.read_starts()
    for one in others:
        one.hosts[0].name, one.hosts[0].cores = "elsewhere", 999
    folder.write_starts(others)
    assert StartRecord(folder, OneProcess(), 1, 9, print, FP32).peak_flops == 1e9 + 1
    assert len(measured) == 2


def test_a_start_is_appended_kept_up_to_date_and_ended(tmp_path):
    folder, said = RunFolder(tmp_path), []
    first = StartRecord(folder, OneProcess(), 1234, 0, said.append, FP32)
    first.update(5)
    second = StartRecord(folder, OneProcess(), 1234, 5, said.append, FP32)
    [killed, running] = folder.read_starts()
    assert (killed.last_step, killed.ended, running.first_step, running.ended) == (5, None, 5, None)
    second.update(9, "finished")
    [killed, ended] = folder.read_starts()
    assert (ended.last_step, ended.outcome, ended.parameters, ended.world_size) == (9, "finished", 1234, 1)
    assert ended.started <= ended.ended == ended.last_seen
    assert ended.peak_host_bytes > 50_000_000
    assert {"python", "torch", "deepspeed"} <= set(ended.versions)
    assert ended.hosts[0].processes == 1
    assert ended.hosts[0].cpu
    assert said == []


def test_a_failure_is_noted_even_where_nothing_can_be_written(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    begun = StartRecord(folder, OneProcess(), 1, 0, print, FP32)
    begun.fail(3, "no data")
    assert folder.read_starts()[0].outcome == "failed: no data"

    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sclds.run.folder.write_atomically", full)
    begun.fail(4, "the reason")


def test_what_is_damaged_is_said_and_the_other_starts_stay(tmp_path):
    folder, said = RunFolder(tmp_path), []
    whole = start(0, 5, None).model_dump()
    folder.environment.write_text(json.dumps([{"started": 5}, whole]))
    StartRecord(folder, OneProcess(), 1, 5, said.append, FP32)
    assert said == ["environment.json: start 1 is damaged and left out (started)"]
    assert [one.first_step for one in folder.read_starts()] == [0, 5]
    folder.environment.write_bytes(b"\x00" * 9)
    problems = []
    assert folder.read_starts(problems) == []
    assert problems[0].startswith("environment.json is left out: it cannot be read")


def test_processes_of_a_machine_are_one_entry():
    process = {"name": "a", "cpu": "x", "cores": 2, "gpu": "H100"}
    hosts = hosts_of([process, process, process | {"name": "b"}])
    assert [(host.name, host.processes, host.gpus) for host in hosts] == [("a", 2, 2), ("b", 1, 1)]
    assert this_process(torch.device("cpu"))["gpu"] == ""


def test_versions_are_those_that_run():
    assert versions()["torch"] == torch.__version__


def test_a_clone_is_known_with_its_changes(tmp_path):
    def git(*words):
        name = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *name, *words], check=True, capture_output=True)

    assert git_state(tmp_path) is None
    (tmp_path / "a").write_text("1")
    git("init")
    git("add", "a")
    git("commit", "-m", "a")
    state = git_state(tmp_path)
    assert len(state["commit"]) == 40
    assert state["dirty"] is False
    (tmp_path / "untracked").touch()
    assert git_state(tmp_path)["dirty"] is False, "a run folder in the clone changes no code"
    (tmp_path / "a").write_text("2")
    assert git_state(tmp_path)["dirty"] is True


@pytest.mark.parametrize("fault", [FileNotFoundError("git"), subprocess.TimeoutExpired("git", 1)])
def test_a_git_that_does_not_answer_keeps_no_run_from_starting(tmp_path, monkeypatch, fault):
    def fails(*given, **named):
        raise fault

    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(subprocess, "run", fails)
    assert git_state(tmp_path) is None


def test_the_entry_survives_writing(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_starts([start(0, 5, "2026-01-02T03:44:05+00:00")])
    assert folder.read_starts() == [Start.model_validate(start(0, 5, "2026-01-02T03:44:05+00:00").model_dump())]
