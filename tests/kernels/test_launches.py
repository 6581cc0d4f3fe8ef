"""The launches as a device would see them: real arguments, specialised and compiled for A100 and H100, run nowhere.

The interpreter takes any argument and any option, and `scl_kernels.check` compiles signatures that it writes itself;
what lies between, the launches' own, is compiled here.
"""

import importlib

import pytest
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from scl_kernels import check, infonce_launch
from scl_kernels.threeway import (
    GATHER_CASES,
    INFONCE_CASES,
    GatherCase,
    compare_gather_rows,
    compare_infonce,
    compare_masked_gather,
)

KERNELS = {
    "backward_combine_kernel", "backward_kernel", "chunk_kernel", "combine_kernel", "d_similarity_kernel",
    "forward_combine_kernel", "forward_kernel", "gradient_kernel", "joint_destination_kernel", "prepare_kernel",
}  # fmt: skip
BASE = GatherCase(500, 412, 325, 8, 768)


class Device:
    """A driver of a device that is not there, beside any that is."""

    def __init__(self, architecture):
        self.target = GPUTarget("cuda", architecture, 32)

    def get_current_target(self):
        return self.target

    def get_current_device(self):
        return 1000 + self.target.arch

    def get_current_stream(self, device):
        return 0


@pytest.fixture
def compiled(monkeypatch):
    """Take CPU tensors to the launches of a device and return what these compile, by kernel's name."""
    found = {}
    run = JITFunction.run

    def compile_only(self, *arguments, grid, warmup, **options):
        assert all(size > 0 for size in grid)
        kernel = run(self, *arguments, grid=grid, warmup=True, **options)
        found.setdefault(self.__name__, {})[kernel.hash] = kernel
        return kernel

    monkeypatch.setattr(JITFunction, "run", compile_only)
    for name in ("infonce", "masked_gather", "gather_rows"):
        module = importlib.import_module(f"scl_kernels.{name}")
        monkeypatch.setattr(
            module, "resolve", lambda backend, tensor, *size: "torch" if backend == "torch" else "triton"
        )
    return found


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [80, 90])
def test_launches_compile_and_do_not_spill(architecture, compiled, monkeypatch):
    monkeypatch.setattr(infonce_launch, "architecture", lambda device: architecture)
    monkeypatch.setattr(driver, "_active", Device(architecture))
    for name in ("masked_gather", "gather_rows"):
        monkeypatch.setattr(importlib.import_module(f"scl_kernels.{name}"), "SMALL", 0)
    for dtype in (torch.float32, torch.bfloat16):
        for cases in INFONCE_CASES:
            compare_infonce(cases, dtype, "cpu", "auto")
        for case in (*GATHER_CASES, BASE):
            compare_masked_gather(case, dtype, "cpu", "auto")
            compare_gather_rows(case, dtype, "cpu", "auto")
    assert set(compiled) == KERNELS
    spilled = [
        f"{name}: {usage.spilled} bytes"
        for name, kernels in compiled.items()
        for usage in map(check.usage_of, kernels.values())
        if usage.spilled
    ]
    assert spilled == []
