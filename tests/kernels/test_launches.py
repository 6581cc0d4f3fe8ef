"""The launches as a device would see them: real arguments, specialised and compiled for A100 and H100, run nowhere.

The interpreter takes any argument and any option, and `scl_kernels.check` compiles signatures that it writes itself;
what lies between, the launches' own, is compiled here.
"""

import importlib
import itertools

import pytest
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from scl_kernels import backend, check
from scl_kernels.masked_gather.registration import Case
from scl_kernels.pairwise import launch as pairwise
from scl_kernels.registry import operations

MORE_CASES = {"masked_gather": (Case(500, 412, 325, 8, 768),)}
"""The base model's width beside the cases that every operation has."""


def name_of(kernel):
    """Return what tells a kernel from those of other operations."""
    return f"{kernel.__module__}.{kernel.__name__}"


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
        found.setdefault(name_of(self), {})[kernel.hash] = kernel
        return kernel

    monkeypatch.setattr(JITFunction, "run", compile_only)
    monkeypatch.setattr(backend, "reachable", lambda tensor: tensor.dtype != torch.float64)
    monkeypatch.setattr(backend, "smallest_sizes", dict)  # cases are small
    return found


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [80, 90])
def test_launches_compile_and_do_not_spill(architecture, compiled, monkeypatch):
    monkeypatch.setattr(pairwise, "architecture", lambda device: architecture)
    monkeypatch.setattr(driver, "_active", Device(architecture))
    for name in ("masked_gather", "gather_rows"):
        monkeypatch.setattr(importlib.import_module(f"scl_kernels.{name}.operation"), "SMALL", 0)
    for operation in operations():
        for dtype, case in itertools.product(
            (torch.float32, torch.bfloat16), (*operation.cases, *MORE_CASES.get(operation.name, ()))
        ):
            operation.compare(case, dtype, "cpu", "auto")
    assert set(compiled) == {name_of(variant.kernel) for variant in check.variants(architecture)}
    spilled = [
        f"{name}: {usage.spilled} bytes"
        for name, kernels in compiled.items()
        for usage in map(check.usage_of, kernels.values())
        if usage.spilled
    ]
    assert spilled == []
