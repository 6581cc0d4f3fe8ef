"""A driver that is too old for torch's CUDA is told by the doctor and at the start of a run, both versions by name."""

import pytest
import torch

from sclds.config.errors import ConfigError
from sclds.machine import driver, examination
from sclds.machine.driver import driver_problem
from sclds.train.startup import checked_start

QUICKSTART = "configs/quickstart.yaml"
TOLD = (
    "torch 2.13.0 is built with CUDA 13.0, and the driver of this host (535.104.05) goes up to CUDA 12.2: update the "
    "driver, or install torch built with CUDA 12 and this package's extra gpu-cu12"
)


@pytest.fixture
def host(monkeypatch, tmp_path):
    """Return a function that makes up torch, driver and nvidia-smi."""

    def make(cuda, newest, smi="535.104.05"):
        monkeypatch.setattr(torch, "__version__", "2.13.0")
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch._C, "_cuda_getDriverVersion", lambda: newest, raising=False)
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{f'echo {smi}; echo {smi}' if smi else 'exit 9'}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    return make


def test_both_versions_are_named(host):
    host("13.0", 12020)
    assert driver_problem() == TOLD


@pytest.mark.parametrize("smi", ["", None])
def test_without_nvidia_smi_the_cuda_of_the_driver_is_named(host, smi, monkeypatch):
    host("13.0", 12020, smi)
    if smi is None:
        monkeypatch.setenv("PATH", "")
    assert driver_problem() == TOLD.replace(" (535.104.05)", "")


@pytest.mark.parametrize(
    ("cuda", "newest"),
    [("13.0", 13010), ("12.8", 12020), ("12.8", 13000), ("13.0", 0), (None, 12020)],
)
def test_drivers_that_do_are_left_alone(host, cuda, newest):
    """Within a major version of CUDA an older driver does; without a driver there is no GPU to be passed over."""
    host(cuda, newest)
    assert driver_problem() is None


def test_torch_without_cuda_has_no_such_problem():
    assert torch.version.cuda or driver._newest_cuda() is None
    assert torch.version.cuda or driver_problem() is None


def test_the_doctor_and_the_start_of_a_run_tell_it(host, monkeypatch, pytestconfig, tmp_path):
    monkeypatch.chdir(pytestconfig.rootpath)
    host("13.0", 12020)
    told = {finding.name: finding for finding in examination._torch()}["CUDA devices"]
    assert (f"{told.cost}: {told.remedy}", told.found) == (TOLD, "the driver is too old")
    start = [QUICKSTART, [f"run_dir={tmp_path / 'run'}"], 1]
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    checked_start(*start)
    monkeypatch.delenv("DS_ACCELERATOR")
    with pytest.raises(ConfigError) as fault:
        checked_start(*start)
    (problem,) = fault.value.problems
    assert problem.endswith(f"{TOLD}; or export DS_ACCELERATOR=cpu to train on the CPU")
