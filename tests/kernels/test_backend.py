"""The one switch: what it accepts, whom it reaches, what it refuses."""

import csv
import importlib
import json

import pytest
import torch

from scl_kernels import (
    backend,
    crossover,
    dropout_add_norm,
    gather_rows,
    get_backend,
    linear_activation,
    masked_gather,
    set_backend,
)
from scl_kernels.backend import resolve
from tests.kernels.one_process import infonce_of_one

ROWS, INDEX = torch.zeros(2, 3), torch.tensor([0])


@pytest.fixture(autouse=True)
def _restore(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    yield
    set_backend("auto")


@pytest.fixture
def gpu(monkeypatch):
    """Take CPU tensors for those of a GPU, with a smallest size of 1,000 for one gather and none for the other."""
    monkeypatch.setattr(backend, "reachable", lambda tensor: tensor.dtype != torch.float64)
    sizes = {"masked_gather": 1000, "gather_rows": None}
    monkeypatch.setattr(backend, "smallest_sizes", lambda: sizes)


def test_auto_is_torch_on_cpu():
    assert get_backend() == "auto"
    assert resolve("auto", ROWS) == "torch"


def test_auto_leaves_small_sizes_to_the_reference(gpu):
    assert resolve("auto", ROWS, "masked_gather", 999) == "torch"
    assert resolve("auto", ROWS, "masked_gather", 1000) == "triton"
    assert resolve("auto", ROWS, "gather_rows", 10**12) == "torch"
    assert resolve("auto", ROWS, "infonce", 1) == "triton"
    assert resolve("auto", ROWS) == "triton"
    assert resolve("auto", ROWS.double(), "infonce", 10**12) == "torch"


def test_a_forced_backend_knows_no_sizes(gpu, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert resolve("triton", ROWS, "masked_gather", 1) == "triton"
    assert resolve("triton", ROWS, "gather_rows", 1) == "triton"
    set_backend("torch")
    assert resolve("auto", ROWS, "masked_gather", 10**12) == "torch"


def test_every_operation_tells_its_size(gpu, monkeypatch):
    seen = {}

    def note(choice, tensor, operation, size):
        seen[operation] = size
        return "torch"

    for module in ("masked_gather", "gather_rows", "dropout_norm", "bias_activation"):
        monkeypatch.setattr(importlib.import_module(f"scl_kernels.{module}.operation"), "resolve", note)
    tables = [torch.zeros(5, 8), torch.zeros(2, 8), torch.zeros(2, 8), *[torch.zeros(8)] * 4]
    masked_gather(*tables, *[torch.zeros(7, dtype=torch.int64)] * 3, 1e-5)
    gather_rows(tables[0], torch.zeros(3, dtype=torch.int64))
    dropout_add_norm(tables[0], tables[0], tables[3], tables[4], None, 0, 0.0, 1e-5)
    linear_activation(tables[0], torch.zeros(6, 8), torch.zeros(6), "gelu")
    assert seen == {"masked_gather": 7 * 8, "gather_rows": 3 * 8, "dropout_norm": 5 * 8, "bias_activation": 5 * 6}
    assert set(seen) == set(crossover.costs())


def test_shipped_sizes_are_the_estimates_unless_measured():
    entries = json.loads(backend.SIZES.read_text())
    assert list(entries) == list(crossover.costs())
    for name, cost in crossover.costs().items():
        assert entries[name]["from"].startswith("measured on") or entries[name]["size"] == crossover.estimate(cost)


def row(kernel, provider, size, median, device="NVIDIA H100", mode="full"):
    """Return what counts of a line of the benchmarks' CSV."""
    line = {"kernel": kernel, "provider": provider, "mode": mode, "metric": "milliseconds"}
    return {**line, "median": median, "config": json.dumps({"size": size}), "device": device}


def test_measured_sizes_are_where_kernels_never_lose_again():
    rows = [
        *(row("masked_gather", "triton", size, 2.0) for size in (10, 20, 30, 40)),
        *(row("masked_gather", "reference", size, ms) for size, ms in ((10, 3.0), (20, 1.0), (30, 2.5))),
        row("packed_step", "triton", 10, 1.0),
        row("packed_step", "reference", 10, 9.0),
        row("gather_rows", "triton", 10, 2.0),
        row("gather_rows", "reference", 10, 1.0),
        row("gather_rows", "reference", 10, 0.0, mode="forward"),
        row("gather_rows", "triton", 99, 0.0, device="cpu (1 threads)"),
    ]
    assert crossover.measured(rows) == {"masked_gather": 30, "gather_rows": None}
    with pytest.raises(ValueError, match="holds no time of provider `triton` on a GPU"):
        crossover.measured(rows[-1:])


def write_csv(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_one_command_takes_sizes_from_a_csv(tmp_path, monkeypatch, capsys):
    path, target = tmp_path / "benchmarks.csv", tmp_path / "crossover.json"
    target.write_text(backend.SIZES.read_text())
    monkeypatch.setattr(crossover, "SIZES", target)
    rows = [row("masked_gather", "triton", 70, 1.0), row("masked_gather", "reference", 70, 2.0)]
    write_csv(path, rows)
    assert crossover.main([str(path)]) == 0
    assert json.loads(target.read_text())["masked_gather"] == {"size": 0, "from": "measured on NVIDIA H100"}
    assert "masked_gather: kernels from size 0 on (measured on NVIDIA H100)" in capsys.readouterr().out
    write_csv(path, [{**rows[0], "device": "cpu (2 threads)"}])
    assert crossover.main([str(path)]) == 2
    assert "write it with make gpu-check" in capsys.readouterr().err


def test_the_process_wide_choice_reaches_calls_that_say_nothing():
    set_backend("triton")
    with pytest.raises(ValueError, match="'triton' was demanded for tensors on cpu; it needs CUDA tensors"):
        gather_rows(ROWS, INDEX)
    with pytest.raises(ValueError, match="'triton' was demanded"):
        infonce_of_one(ROWS, ROWS, 0.1)
    assert gather_rows(ROWS, INDEX, backend="torch").shape == (1, 3)


def test_unknown_names_are_refused_with_the_choices():
    with pytest.raises(ValueError, match="backend is 'cuda'; choose one of auto, triton, torch"):
        set_backend("cuda")
    with pytest.raises(ValueError, match="backend is 'cuda'"):
        gather_rows(ROWS, INDEX, backend="cuda")


def test_triton_refuses_fp64(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ValueError, match=r"torch\.float64; expected float16, bfloat16 or float32"):
        resolve("triton", ROWS.double())
