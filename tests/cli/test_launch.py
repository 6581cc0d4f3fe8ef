"""`sclds launch`: what reaches the hosts is what was given, and nothing starts where something is wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sclds.cli.main import main
from sclds.config.overrides import replaced
from sclds.config.reading import load_config
from sclds.run.folder import read_metrics
from sclds.train import cluster
from tests.train.test_killed_run import SETTINGS

PDSH = """#!/bin/bash
# as the real one: joins the words, and has a shell on each host read them, without the variables of this one
IFS=, read -ra hosts <<< "$5"
shift 5
printf '%s\\n' "$*" > "$RECORD"
started=() rank=0 code=0
for host in "${hosts[@]}"; do
    env -i HOME="$HOME" PATH=/usr/bin:/bin bash -c "${*//%n/$rank}" &
    started+=($!) rank=$((rank + 1))
done
for one in "${started[@]}"; do wait "$one" || code=$?; done
exit $code
"""
SSH = '#!/bin/bash\n[[ "$*" != *"hostname -I" ]] || echo 127.0.0.1\n'


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """A pdsh and an ssh whose hosts are all this one, and a hostfile of two."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for name, text in (("pdsh", PDSH), ("ssh", SSH)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("RECORD", str(tmp_path / "record"))
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "hosts").write_text("worker-1 slots=1\nworker-2 slots=1\n")
    return tmp_path


@pytest.fixture
def started(monkeypatch):
    """What this process would have become."""
    calls = []
    monkeypatch.setattr(os, "execve", lambda *given: calls.append(given))
    return calls


def launch(tools, *words, folder="run"):
    start = ["launch", "--hostfile", str(tools / "hosts"), "--config", "quickstart"]
    return main([*start, f"run_dir={tools / folder}", *words])


def test_settings_lie_in_the_run_folder_and_words_are_safe_for_any_shell(tools, started, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", "/data")
    (tools / ".deepspeed_env").write_text("# mine\n\nHF_HOME=/cache\n")
    given = ["name=$(id) {00000..00331} *", "data.heldout=[]", "engine.env=[DATA_ROOT]", "data.tokenizer=embedded"]
    assert launch(tools, *given) == 0
    ((_, command, environment),) = started
    settings = tools / "run" / "launch.yaml"
    assert command[-4:] == ["sclds.cli.train", "--config", str(settings), "--hostfile-run"]
    assert load_config(settings) == load_config("quickstart", [f"run_dir={tools / 'run'}", *given])
    assert environment["DS_ENV_FILE"] == str(tools / "run" / "launch.env")
    assert (tools / "run" / "launch.env").stat().st_mode & 0o777 == 0o600, "values may be secrets"
    # DeepSpeed's launcher on each host is told the limits of a step and of a checkpoint
    handed_on = "HF_HOME=/cache\nDATA_ROOT=/data\nDS_ACCELERATOR=cpu\nSCLDS_STOP_SECONDS=5400\n"
    assert (tools / "run" / "launch.env").read_text() == handed_on
    assert environment["SCLDS_STOP_SECONDS"] == "5400"
    assert (tools / ".deepspeed_env").read_text().startswith("# mine")


def test_everything_wrong_is_told_at_once_and_nothing_starts(tools, started, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("WORD", "$(id)")
    (tools / "hosts").write_text("worker-1 slots=2\nworker-1 slots=2\nworker-2\n")
    monkeypatch.delenv("DATA_ROOT", raising=False)
    assert launch(tools, "engine.env=[DATA_ROOT]", "optimizer.implementation=apex") == 2
    told = capsys.readouterr().err
    for part in ("stands in line 1 already", "got 'worker-2'", "install pdsh", "DATA_ROOT is not set here"):
        assert part in told
    assert "NVIDIA Apex" not in told, "which this host, that does not train, need not have"
    (tools / "hosts").write_text("worker-1 slots=3\n")
    assert launch(tools) == 2
    assert "over 3 processes" in capsys.readouterr().err
    assert (started, (tools / "run").exists()) == ([], False)


@pytest.mark.parametrize("place", ["a b", "a$(id)", "a{0..3}", "a;b", "a'b", "ü"])
def test_a_run_folder_that_a_shell_would_read_otherwise_is_refused(tools, started, capsys, place):
    assert launch(tools, folder=place) == 2
    assert "a remote shell may read as something else" in capsys.readouterr().err
    assert started == []


def test_a_value_that_a_shell_would_read_otherwise_is_refused(tools, started, capsys, monkeypatch):
    monkeypatch.setenv("WORD", "$(id)")
    assert launch(tools, "engine.env=[WORD]") == 2
    assert "environment variable WORD holds a character that a remote shell may change" in capsys.readouterr().err
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "$(id)")
    assert launch(tools) == 2
    assert "environment variable NCCL_SOCKET_IFNAME, which DeepSpeed exports" in capsys.readouterr().err
    assert started == []


def test_a_single_host_elsewhere_is_reached_and_this_host_is_not_asked_over_ssh(tools):
    hosts = cluster.Hosts(tools / "hosts")
    elsewhere = cluster.runner_command(hosts, {"worker-1": 8}, tools / "launch.yaml")
    here = cluster.runner_command(hosts, {"localhost": 8}, tools / "launch.yaml")
    assert "--force_multi" in elsewhere
    assert "--no_ssh_check" not in elsewhere
    assert "--force_multi" not in here
    assert here[here.index("--master_addr") + 1] == "127.0.0.1"


def test_a_host_without_a_gpu_does_not_train_on_its_cpu_unasked(tools, started, capsys, monkeypatch):
    import deepspeed.accelerator
    from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator

    monkeypatch.delenv("DS_ACCELERATOR")
    monkeypatch.setattr(deepspeed.accelerator, "get_accelerator", CPU_Accelerator)
    (tools / "hosts").write_text("localhost slots=1\n")
    assert launch(tools) == 2
    assert "has no GPU that torch can use" in capsys.readouterr().err
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    assert launch(tools) == 0
    assert len(started) == 1


@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_hosts_train_with_the_settings_as_given(tools, pytestconfig):
    """DeepSpeed's own runner, and a pdsh whose remote shells read words as the real ones do."""
    run = tools / "run"
    name = "{00000..00331} $(touch executed) `touch executed` *"
    words = replaced(SETTINGS, [f"run_dir={run}", f"name={name}", "schedule.steps=2", "checkpoint.every=9"])
    line = [sys.executable, "-m", "sclds", "launch", "--hostfile", str(tools / "hosts"), "--config", "quickstart"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "WORD": "handed-on"}
    environment["PYTHONPATH"] = f"{pytestconfig.rootpath}{os.pathsep}{pytestconfig.rootpath / 'kernels'}"
    done = subprocess.run(
        [*line, *words, "engine.env=[WORD, OMP_NUM_THREADS]", "--master-port", "29731"],
        env=environment,
        cwd=tools,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert load_config(run / "config.yaml").name == name
    assert [step["step"] for step in read_metrics(run / "metrics.jsonl")] == [1, 2]
    assert "export WORD=handed-on;" in (tools / "record").read_text()
    assert list(Path(tools).rglob("executed")) == []
