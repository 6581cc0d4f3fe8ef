"""Counts that change from batch to batch compile nothing anew: late compilations would stop a running job.

Launches are bound as the compiler's cache would bind them, without a device and without compiling; what tells two
compilations apart is counted.
"""

import importlib
from collections import defaultdict

import pytest
import torch
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

from scl_kernels import (
    backend,
    bias_activation,
    dropout_add_norm,
    gather_rows,
    infonce,
    infonce_statistics,
    masked_gather,
    sigmoid_loss,
)
from scl_kernels.infonce import registration as infonce_cases
from scl_kernels.masked_gather.registration import EPS, Case, draw
from scl_kernels.registry import DTYPES, operations
from scl_kernels.sigmoid import registration as sigmoid_cases

BATCHES = 200
WIDTH = 8


@pytest.fixture
def compilations(monkeypatch):
    """Return, by kernel and constants, what its compilations would be; launches bind and do nothing else."""
    found, binders, target = defaultdict(set), {}, make_backend(GPUTarget("cuda", 90, 32))

    def bind(self, *arguments, grid, warmup, **options):
        if self not in binders:
            binders[self] = create_function_from_signature(self.signature, self.params, target)
        binder = binders[self]
        _, specialization, _ = binder(*arguments, **options, debug=False)
        constants = [str(value) for value, p in zip(specialization, self.params, strict=False) if p.is_constexpr]
        variant = f"{self.__module__}.{self.__name__} {' '.join(constants)}"
        found[variant].add(tuple(map(str, specialization)))

    monkeypatch.setattr(JITFunction, "run", bind)
    monkeypatch.setattr(backend, "reachable", lambda tensor: tensor.dtype != torch.float64)
    for name in ("masked_gather", "gather_rows"):
        monkeypatch.setattr(importlib.import_module(f"scl_kernels.{name}.operation"), "SMALL", 0)
    return found


def ragged(count):
    """Take a batch of `count` rows through every operation whose counts are those of tokens, in both directions."""
    rows = torch.ones(count, WIDTH, requires_grad=True)
    weight, bias = torch.ones(WIDTH), torch.zeros(WIDTH, requires_grad=True)
    out, total = dropout_add_norm(rows, rows, weight, bias, torch.arange(count), count % 40, 0.1, EPS)
    (out.sum() + total.sum() + bias_activation(rows, bias, "gelu").sum()).backward()
    gather_rows(rows, torch.zeros(1 + count // 3, dtype=torch.int64)).sum().backward()
    inputs = draw(Case(count, 1 + count // 2, 1 + count % 5, 1 + count % 3, WIDTH), "cpu", torch.float32)
    rows = inputs.rows.requires_grad_()
    masked_gather(rows, *inputs[1:]).sum().backward()


def losses(count):
    """Take `count` local rows among more, in two problems of one call, through the losses, in both directions."""
    problems = [
        infonce_cases.draw(infonce_cases.Case(n, n + 5, WIDTH, 3), torch.float32, "cpu")
        for n in (count, 1 + count // 2)
    ]
    statistics = infonce_statistics(problems)
    everywhere = [torch.zeros(len(problem.a_all)) for problem in problems]
    sum(infonce(problems, everywhere, everywhere, statistics)).backward()
    sigmoid_loss(sigmoid_cases.draw(sigmoid_cases.Case(count, count + 5, WIDTH, 3), torch.float32, "cpu")).backward()


def test_ragged_batches_compile_each_variant_once(compilations):
    """1, 16 and multiples of 16 among them, which Triton tells apart unless it is told not to."""
    for number in range(BATCHES):
        count = (1, 16, 48, 333)[number] if number < 4 else 1 + number * 37 % 400
        ragged(count)
        losses(count)
    assert len(compilations) >= 14
    assert {name: len(variants) for name, variants in compilations.items()} == dict.fromkeys(compilations, 1)


OF_THE_MODEL = ("width",)
"""Integers that are the same in all launches of a run, which a compilation may know of."""


def test_integers_that_vary_are_declared_so():
    """Of every kernel that is compiled, also of those that no batch above happens to launch."""
    kernels = {
        (v.kernel, name)
        for operation in operations()
        for dtype in DTYPES
        for v in operation.variants(dtype, 90)
        for name, kind in v.types.items()
        if kind in ("i32", "i64")
    }
    assert len(kernels) >= 20
    undeclared = [
        f"{kernel.__module__}.{kernel.__name__}: {name}"
        for kernel, name in kernels
        if name not in OF_THE_MODEL and not next(p for p in kernel.params if p.name == name).do_not_specialize
    ]
    assert undeclared == []
