"""The benchmarks run small here, write the CSV and the plots, and cannot measure the interpreter."""

import csv
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scl_kernels.registry import operations

BENCHMARKS = Path(__file__).parents[2] / "kernels" / "benchmarks"


def run(script, *arguments, **environment):
    clean = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    return subprocess.run(command, env={**clean, **environment}, capture_output=True, text=True)


@pytest.mark.slow
def test_rows_quantiles_and_plots(tmp_path):
    path = tmp_path / "benchmarks.csv"
    providers = ("ours", "eager", "sdpa", "published")
    done = run("run.py", "--providers", *providers, "--seconds", "0.01", "--output", str(path))
    assert done.returncode == 0, done.stderr
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    kernels = {operation.name for operation in operations()} | {"infonce_rank", "sigmoid_rank"}
    expected = {(kernel, p) for kernel in kernels for p in ("ours", "eager")}
    expected |= {(f"attention_{case}", p) for case in ("image", "video", "text", "cross") for p in ("sdpa", "eager")}
    expected |= {("packed_step", "ours"), ("packed_step", "published")}
    assert {(row["kernel"], row["provider"], row["mode"]) for row in rows} == {
        (*pair, mode) for pair in expected for mode in ("forward", "backward", "full")
    }
    assert all(0 < float(row["q20"]) <= float(row["median"]) <= float(row["q80"]) for row in rows)
    assert (tmp_path / "infonce_full_milliseconds.png").stat().st_size > 0
    assert "0 measurements left out" in done.stdout
    if not torch.cuda.is_available():
        assert "No GPU: small sizes" in done.stdout
        assert all(row["device"].startswith("cpu") for row in rows)


@pytest.mark.parametrize("name", [operation.name for operation in operations()])
def test_providers_of_a_workload_compute_the_same(name, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for workload in importlib.import_module(name).workloads():
        torch.testing.assert_close(workload.providers["ours"](), workload.providers["eager"]())
    monkeypatch.delitem(sys.modules, name)


@pytest.fixture
def bare(tmp_path):
    """Return a folder that holds PyTorch, Triton, numpy and what these import, and nothing else."""
    folder = tmp_path / "bare"
    folder.mkdir()
    installed = Path(torch.__file__).parents[1]
    for name in BARE:
        for place in (installed / name, installed / f"{name}.py"):
            if place.exists():
                (folder / place.name).symlink_to(place)
    for place in installed.glob("numpy*.libs"):
        (folder / place.name).symlink_to(place)
    return folder


BARE = (
    "torch torchgen functorch triton numpy typing_extensions sympy mpmath networkx jinja2 markupsafe filelock".split()
)


@pytest.mark.slow
def test_nothing_but_torch_triton_and_numpy_is_needed(bare, tmp_path):
    """The packed step too, whose configuration is written in pydantic; without matplotlib there are no plots."""
    path, root = tmp_path / "benchmarks.csv", BENCHMARKS.parents[1]
    arguments = ("attention", "packed_step", "--providers", "sdpa", "ours", "--seconds", "0.01", "--output", str(path))
    command = [sys.executable, "-S", str(BENCHMARKS / "run.py"), *arguments]
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{bare}:{root}:{root / 'kernels'}",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 measurements left out" in done.stdout
    assert "no plots: matplotlib is not installed" in done.stdout
    assert "packed_step" in path.read_text()


def test_the_stand_in_has_the_defaults_of_pydantic(bare):
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import pydantic_stand_in; pydantic_stand_in.install()\n"
        "from sclds.config import LossesConfig, ModelConfig\n"
        "def plain(x):\n"
        "    return {n: plain(getattr(x, n)) for n in type(x).model_fields} if hasattr(x, 'model_fields') else x\n"
        "print(plain(ModelConfig.model_validate({'text': {'width': 64}, 'projection': 7})), plain(LossesConfig()))\n"
    )
    root = BENCHMARKS.parents[1]
    outputs = []
    for flags, path in ((["-S"], f"{bare}:{root}"), ([], str(root))):
        command = [sys.executable, *flags, "-c", script, str(BENCHMARKS)]
        done = subprocess.run(command, env={"PYTHONPATH": path}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1]
    assert "'width': 64" in outputs[0]


def test_a_missing_library_leaves_a_benchmark_out_and_says_so(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import run as script

    def missing(name):
        raise ModuleNotFoundError("No module named 'numpy'", name="numpy")

    monkeypatch.setattr(script, "import_module", missing)
    assert script.run(["packed_step"], (), 0.01, 1.0) == ([], ["packed_step: needs numpy, which is not installed"])
    assert "left out: packed_step: needs numpy" in capsys.readouterr().out


def test_the_time_limit_leaves_out_and_counts(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import run as script

    rows, left_out = script.run(["gather_rows", "infonce"], (), 0.01, -1.0)
    assert rows == []
    assert [sentence.split(" ")[0] for sentence in left_out] == ["gather_rows", "infonce"]


def test_no_row_can_come_from_the_interpreter(monkeypatch):
    """Whatever calls `measure`, not only the command, is stopped before its first row."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import harness

    monkeypatch.setenv("TRITON_INTERPRET", "1")
    x = torch.ones(2, requires_grad=True)
    workload = harness.Workload(2, {}, [x], {"ours": lambda: x * 2})
    with pytest.raises(RuntimeError, match="the interpreter's time says nothing"):
        next(harness.measure("k", workload, (), 0.01, []))


def test_what_runs_out_of_memory_or_does_not_compile_is_left_out_alone(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import harness

    x = torch.ones(2, requires_grad=True)

    def fail(fault):
        raise fault

    monkeypatch.setattr(harness, "device", lambda: "cpu")
    providers = {
        "triton": lambda: fail(torch.OutOfMemoryError("full")),
        "compile": lambda: fail(RuntimeError("no backend")),
        "ours": lambda: x * 2,
    }
    left_out = []
    rows = list(harness.measure("k", harness.Workload(2, {}, [x], providers, "case"), (), 0.01, left_out))
    assert {(row.kernel, row.provider) for row in rows} == {("k_case", "ours")}
    assert left_out == ["k_case x=2 triton: out of memory", "k_case x=2 compile: RuntimeError ['no backend']"]
    with pytest.raises(RuntimeError, match="wrong"):
        list(
            harness.measure("k", harness.Workload(2, {}, [x], {"ours": lambda: fail(RuntimeError("wrong"))}), (), 0, [])
        )


def test_the_interpreter_is_never_measured(tmp_path):
    path = tmp_path / "benchmarks.csv"
    done = run("run.py", "--output", str(path), TRITON_INTERPRET="1")
    assert done.returncode == 1
    assert "the interpreter's time says nothing" in done.stderr
    assert not path.exists()


def test_an_unknown_name_is_refused_with_the_choices():
    assert (
        "no benchmark named 'gather'; choose from gather_rows, infonce, masked_gather, "
        in run("run.py", "gather").stderr
    )


def test_targets_are_read_from_the_rows(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_check
    import harness

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))

    def row(kernel, provider, x, median, mode="full"):
        config = json.dumps({"size": 512 * x**2, "rows": x * 324 // 390, "width": 768})
        return harness.Row(kernel, provider, mode, "milliseconds", x, median, median, median, config, "H100", "", "")

    rows = [
        row("infonce", "triton", 32768, 10.0),
        row("infonce", "triton", 32768, 3.0, "forward"),
        row("masked_gather", "triton", 48000, 0.25),
        row("masked_gather", "triton", 48000, 0.05, "forward"),
        row("infonce", "ours", 32768, 10.0),
        row("infonce", "eager", 32768, 9),
        row("attention_text", "ours", 8, 2.05),
        row("attention_text", "eager", 8, 2.0),
    ]
    assert gpu_check.targets(rows) == [
        "Shares of H100 SXM 80 GB's published peaks",
        "infonce x=32768 full: 67% of the peak bf16 FLOP/s (target 50%)",
        "infonce x=32768 forward: 74% of the peak bf16 FLOP/s",
        "masked_gather x=48000 full: 80% of the peak bandwidth (target 80%)",
        "masked_gather x=48000 forward: 89% of the peak bandwidth",
        "infonce x=32768: SLOWER than eager, 10.000 against 9.000 ms",
        "attention_text x=8: never slower than eager, 2.050 against 2.000 ms",
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_the_gpu_check_says_in_one_sentence_what_it_needs():
    done = run("gpu_check.py")
    assert done.returncode == 1
    assert done.stdout.strip().splitlines() == [
        "No CUDA device is visible; the GPU check needs one of compute capability 8.0 or higher (A100, H100)."
    ]
