"""The table of operations: complete, and all that the tools know; a new operation needs no change in any of them."""

import csv
import importlib
import inspect
import json
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
import triton
import triton.language as tl

import scl_kernels
from scl_kernels import check, crossover, registry
from scl_kernels.backend import set_backend
from scl_kernels.registry import Operation, Variant, operations, register
from scl_kernels.roofline import DEVICES, Account, Cost, Term, Work
from scl_kernels.threeway import compare

BENCHMARKS = Path(__file__).parents[2] / "kernels" / "benchmarks"


def unregistered(package):
    """Return the operations among a package's exports, functions that take a backend, that no registration has."""
    known = {function for operation in operations() for function in operation.functions}
    exported = {name: getattr(package, name) for name in package.__all__}
    taking = {name: f for name, f in exported.items() if inspect.isfunction(f) and f is not set_backend}
    return [n for n, f in taking.items() if "backend" in inspect.signature(f).parameters and f not in known]


def test_every_exported_operation_is_registered():
    assert unregistered(scl_kernels) == []
    names = [function.__name__ for operation in operations() for function in operation.functions]
    assert set(names) <= set(scl_kernels.__all__)
    gathers_and_losses = {"masked_gather", "gather_rows", "infonce", "infonce_statistics", "sigmoid_loss"}
    assert gathers_and_losses | {"dropout_add_norm", "bias_activation", "linear_activation"} == set(names)


def test_an_operation_that_nobody_registered_is_found():
    def forgotten(x, *, backend="auto"):
        return x

    with (
        mock.patch.object(scl_kernels, "forgotten", forgotten, create=True),
        mock.patch.object(scl_kernels, "__all__", [*scl_kernels.__all__, "forgotten"]),
    ):
        assert unregistered(scl_kernels) == ["forgotten"]


def test_every_operation_has_cases_compilations_and_a_benchmark():
    for operation in operations():
        assert operation.cases
        assert list(operation.variants("bf16", 90))
        assert (BENCHMARKS / f"{operation.name}.py").is_file()


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match="an operation named 'infonce' is registered already"):
        register(next(operation for operation in operations() if operation.name == "infonce"))


@triton.jit
def toy_kernel(x, out, SIZE: tl.constexpr):
    """Double SIZE numbers."""
    at = tl.arange(0, SIZE)
    tl.store(out + at, tl.load(x + at) * 2)


def double(x, *, backend="auto"):
    return 2 * x


def compare_double(case, dtype, device, backend):
    x = torch.ones(case, dtype=dtype)
    return [compare("output", double(x), x + x, 2 * x.double())]


TOY = Operation(
    "toy",
    functions=(double,),
    cases=(3, 5),
    compare=compare_double,
    variants=lambda name, architecture: [
        Variant(f"toy/{name}", toy_kernel, {"x": "*fp32", "out": "*fp32"}, {"SIZE": 64})
    ],
    device_cases=(7,),
    accounts=lambda: [Account("toy account", "moves", [Term("all", 1.0)], [Term("all", 3.0)], 4.0)],
    work=lambda x, config, mode: Work("bytes", 3.35e9 * config["size"], 0.5),
    cost=lambda: Cost(1e-3, "a guess", 1.0),
)
WORKLOAD = """
import torch
from harness import Workload
def workloads():
    x = torch.ones(4, requires_grad=True)
    yield Workload(4, {"size": 4}, [x], {"ours": lambda: 2 * x})
"""


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """Register an operation, as its package would, and put its benchmark's workload beside the others."""
    operations()
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    register(TOY)
    (tmp_path / "toy.py").write_text(WORKLOAD)
    for path in (BENCHMARKS, tmp_path):
        monkeypatch.syspath_prepend(str(path))
    yield TOY
    sys.modules.pop("toy", None)


def test_the_kernel_check_compiles_a_new_operation_and_holds_it_to_its_account(toy, capsys, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    found = check.check("toy/bf16", [90], update=False)
    assert found == ["toy/bf16/sm_90: has no budget; run python -m scl_kernels.check --update and review the change"]
    assert "toy/bf16/sm_90" in capsys.readouterr().out
    assert check.report_arithmetic() == ["toy account: 3.00 times fewer bytes; expected at least 4.0"]


def test_the_benchmarks_measure_a_new_operation(toy):
    run = importlib.import_module("run")
    assert "toy" in run.names_of_all()
    rows, left_out = run.run(["toy"], (), 0.001, 60.0)
    assert {(row.kernel, row.mode) for row in rows} == {("toy", mode) for mode in ("forward", "backward", "full")}
    assert left_out == []


def test_the_gpu_check_compares_a_new_operation_and_reads_its_share(toy, tmp_path, monkeypatch):
    gpu_stages, gpu_targets = importlib.import_module("gpu_stages"), importlib.import_module("gpu_targets")
    harness = importlib.import_module("harness")
    monkeypatch.setattr(registry, "_registered", {"toy": TOY})
    monkeypatch.setattr(registry.pkgutil, "iter_modules", lambda path: [])
    monkeypatch.setattr(gpu_stages, "_side_by_side", map)  # other processes do not know it
    assert gpu_stages.correctness(tmp_path, rehearse=False) == 0
    with (tmp_path / "correctness.csv").open(newline="") as file:
        lines = [(line["kernel"], line["case"]) for line in csv.DictReader(file)]
    assert lines == [("toy", str(case)) for _ in range(3) for case in (3, 5, 7)]
    row = harness.Measurement(
        "toy", "triton", "full", "milliseconds", 4, 8.0, 8.0, 8.0, json.dumps({"size": 4}), "H100", "", ""
    )
    with harness.RowFile(tmp_path / "toy.csv") as file:
        file.keep(row)
    share = gpu_targets._share_of_work("toy", DEVICES[90])(gpu_targets.Found(tmp_path, {}))
    assert share == pytest.approx(0.5)


def test_the_sizes_know_a_new_operation(toy):
    assert crossover.estimate(crossover.costs()["toy"]) == round(1e-3 * 3.35e12)
