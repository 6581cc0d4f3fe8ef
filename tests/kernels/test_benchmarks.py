"""The benchmarks run small here, write the CSV and the plots, and cannot measure the interpreter."""

import ast
import contextlib
import csv
import importlib
import os
import re
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from scl_kernels.registry import operations

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "kernels" / "benchmarks"


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
        if not workload.config.get("dropout"):  # which each of them draws in its own way
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


def test_a_failure_of_ours_is_one_and_loses_no_other_provider_and_no_other_size(monkeypatch):
    """What another package raises is left out; a kernel of ours that does not launch ends the benchmark, at its end."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import harness
    import run as script

    x = torch.ones(2, requires_grad=True)

    def fail(fault):
        raise fault

    providers = {
        "ours": lambda: fail(RuntimeError("does not launch")),
        "inf_cl": lambda: fail(RuntimeError("of another version")),
        "eager": lambda: x * 2,
    }
    sizes = [harness.Workload(size, {}, [x], providers) for size in (1, 2)]
    monkeypatch.setattr(harness, "device", lambda: "cpu")
    monkeypatch.setattr(script, "import_module", lambda name: SimpleNamespace(workloads=lambda: sizes))
    kept = []
    with pytest.raises(RuntimeError, match="does not launch"):
        script.run(["k"], (), 0.01, 60.0, (), kept.append)
    assert {(row.x, row.provider) for row in kept} == {(1, "eager"), (2, "eager")}
    sizes[:] = [size._replace(providers={n: f for n, f in providers.items() if n != "ours"}) for size in sizes]
    rows, left_out = script.run(["k"], (), 0.01, 60.0)
    assert {row.x for row in rows} == {1, 2}
    assert left_out == [f"k x={size} inf_cl: RuntimeError ['of another version']" for size in (1, 2)]


def test_the_interpreter_is_never_measured(tmp_path):
    path = tmp_path / "benchmarks.csv"
    done = run("run.py", "--output", str(path), TRITON_INTERPRET="1")
    assert done.returncode == 1
    assert "the interpreter's time says nothing" in done.stderr
    assert not path.exists()


def test_an_unknown_name_is_refused_with_the_choices():
    assert (
        "no benchmark named 'gather'; choose from bias_activation, dropout_norm, gather_rows, infonce, masked_gather, "
        in run("run.py", "gather").stderr
    )


@pytest.mark.parametrize("stage", ["attention_check", "waits", "base_step", "peak"])
def test_stages_need_nothing_but_torch_triton_and_numpy(stage, bare, tmp_path):
    """Rehearsed on the CPU, as on a rented machine that has little else."""
    command = [sys.executable, "-S", str(BENCHMARKS / "gpu_stages.py"), stage, str(tmp_path), "--rehearse"]
    path = f"{bare}:{ROOT}:{ROOT / 'kernels'}"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len((tmp_path / f"{stage}.csv").read_text().splitlines()) > 1


def test_a_stage_names_what_it_lacks(bare, tmp_path):
    command = [sys.executable, "-S", str(BENCHMARKS / "gpu_stages.py"), "evaluation", str(tmp_path), "--rehearse"]
    path = f"{bare}:{ROOT}:{ROOT / 'kernels'}"
    done = subprocess.run(command, env={"PATH": os.environ["PATH"], "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert re.fullmatch(r"evaluation: needs \w+, which is not installed\n", done.stdout)


def test_other_packages_losses_are_providers_where_they_and_a_gpu_are(monkeypatch):
    """Stubs with their signatures: the same numbers as ours, gradients too."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import others

    from scl_kernels.infonce.reference import plain_infonce

    def flash(q, k, labels=None, scale=None, head_dim=256):
        return torch.nn.functional.cross_entropy(scale * q @ k.T, torch.arange(len(q)), reduction="none")

    def siglip(image, text, log_temperature, bias):
        sign = 2 * torch.eye(len(image)) - 1
        logits = log_temperature.exp() * image @ text.T + bias
        return -torch.nn.functional.logsigmoid(sign * logits).sum() / len(image)

    monkeypatch.setitem(
        sys.modules, "inf_cl", SimpleNamespace(cal_flash_loss=flash, __spec__=ModuleSpec("inf_cl", None))
    )
    name = "siglip_kernel"
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(fused_siglip_loss=siglip, __spec__=ModuleSpec(name, None)))
    a, b = torch.randn(2, 7, 5).requires_grad_()
    assert others.others("inf_cl", a, b, torch.tensor(0.1)) == {}, "no GPU"
    monkeypatch.setattr(others, "device", lambda: "cuda")
    assert others.others("nobody_has_this", a, b) == {}
    weight = torch.full((7,), 1 / 7)
    found = others.others("inf_cl", a, b, torch.tensor(0.1))["inf_cl"]()
    torch.testing.assert_close(found, plain_infonce(a, b, torch.tensor(0.1), weight))
    monkeypatch.setattr("harness.device", lambda: "cpu")
    import sigmoid as benchmark

    scale, bias = torch.tensor(10.0), torch.tensor(-3.0)
    found = others.others("siglip_kernel", a, b, scale, bias)["siglip_kernel"]()
    torch.testing.assert_close(found, benchmark.plain(a, b, scale, bias, weight))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_the_gpu_check_says_in_one_sentence_what_it_needs():
    done = run("gpu_check.py")
    assert done.returncode == 1
    assert done.stdout.strip().splitlines() == [
        "No CUDA device is visible; the GPU check needs one of compute capability 8.0 or higher (A100, H100)."
    ]


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.stem)
def test_what_a_script_takes_from_the_packages_is_there(path):
    """Stages of the GPU check import as they begin, and some of them run on a GPU alone."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    taken = [(node.module, alias.name) for node in nodes for alias in node.names]
    ours = [(module, name) for module, name in taken if module.partition(".")[0] in ("sclds", "scl_kernels")]
    missing = [f"{module}.{name}" for module, name in ours if not is_there(module, name)]
    assert missing == []


def is_there(module, name):
    """Return whether a module has a name, or a module of that name inside."""
    with contextlib.suppress(ModuleNotFoundError):
        return hasattr(importlib.import_module(module), name) or bool(importlib.import_module(f"{module}.{name}"))
    return False
