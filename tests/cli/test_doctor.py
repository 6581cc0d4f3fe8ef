"""What is missing is named with its cost and remedy, and decides the exit code."""

import json

import pytest

from sclds.cli.main import main
from sclds.machine import examination


def report(capsys):
    code = main(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)
    return code, found["ready"], {f["name"]: f for f in found["findings"]}


def test_this_machine_can_train(capsys):
    code, ready, findings = report(capsys)
    assert (code, ready) == (0, True)
    wanted = {
        "Python",
        "torch",
        "CUDA devices",
        "deepspeed",
        "nvidia-dali-cuda120",
        "av",
        "gcc",
        "ninja",
        "gloo",
        "nccl",
    }
    wanted |= {
        "NVIDIA Apex",
        "flash-attn",
        "engine.kernels=auto",
        "engine.attention=auto",
        "DS_ACCELERATOR",
        "free disk",
    }
    assert wanted <= findings.keys()
    assert all(f["cost"] and f["remedy"] for f in findings.values() if f["state"] != "ok")


def test_the_table_says_what_to_do(capsys):
    assert main(["doctor"]) == 0
    told = capsys.readouterr().out
    assert "Pre-training can run here" in told
    assert "flash-attn" in told


@pytest.mark.parametrize(("distribution", "code"), [("deepspeed", 1), ("nvidia-dali-cuda120", 1), ("triton", 0)])
def test_a_missing_library_decides_by_what_it_costs(monkeypatch, capsys, distribution, code):
    version = examination.installed_version
    monkeypatch.setattr(examination, "installed_version", lambda name: None if name == distribution else version(name))
    monkeypatch.setattr(examination, "_importable", lambda module: False)
    found_code, ready, findings = report(capsys)
    assert (found_code, ready) == (code, not code)
    assert findings[distribution]["state"] == ("missing" if code else "optional")
    assert findings[distribution]["remedy"] == f"pip install {distribution}"


def test_a_check_that_fails_is_reported_and_keeps_no_other_from_running(monkeypatch, capsys):
    def broken():
        raise OSError("libcuda is of another version")

    monkeypatch.setattr(examination, "_torch", broken)
    code, _, findings = report(capsys)
    assert code == 1
    assert "libcuda is of another version" in str(findings)
    assert "Python" in findings


def test_little_room_is_told(monkeypatch, capsys):
    usage = type("Usage", (), {"free": 2**30, "total": 64 * 2**20})
    monkeypatch.setattr(examination.shutil, "disk_usage", lambda path: usage)
    code, _, findings = report(capsys)
    assert code == 0
    assert findings["free disk"]["state"] == "optional"
    assert "--shm-size" in findings["/dev/shm"]["remedy"]


def test_without_compilers_the_cost_is_named(monkeypatch, capsys):
    monkeypatch.setattr(examination.shutil, "which", lambda name, path=None: None)
    _, _, findings = report(capsys)
    assert "engine.kernels=torch" in findings["gcc"]["cost"]
    assert findings["ninja"]["remedy"] == "pip install ninja"


@pytest.mark.parametrize(
    ("cuda", "installed", "state", "said"),
    [
        ("12.8", {"nvidia-dali-cuda120"}, "ok", ""),
        ("13.0", {"nvidia-dali-cuda130"}, "ok", ""),
        ("13.0", {"nvidia-dali-cuda120"}, "ok", ""),
        ("13.0", set(), "missing", "pip install nvidia-dali-cuda130"),
        (None, set(), "missing", "pip install nvidia-dali-cuda120"),
        ("13.0", {"nvidia-dali-cuda120", "nvidia-dali-cuda130"}, "optional", "then pip install nvidia-dali-cuda130"),
    ],
)
def test_one_build_of_dali_is_asked_for_that_of_torchs_cuda(monkeypatch, cuda, installed, state, said):
    monkeypatch.setattr("torch.version.cuda", cuda)
    monkeypatch.setattr(examination, "_importable", lambda module: False)
    monkeypatch.setattr(examination, "installed_version", lambda name: "2.4.0" if name in installed else None)
    (finding,) = examination._dali()
    assert finding.state == state
    assert said in finding.remedy


def test_attention_that_was_passed_over_is_told_with_the_reason(capsys):
    _, _, findings = report(capsys)
    told = findings["engine.attention=auto"]
    assert told["found"] == "sdpa"
    assert "not torch_varlen: it needs a CUDA device, and a run here computes on the CPU" in told["cost"]
