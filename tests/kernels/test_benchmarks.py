"""The benchmarks run small here, write the CSV and the plots, and cannot measure the interpreter."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "kernels" / "benchmarks"


def run(script, *arguments, **environment):
    clean = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    return subprocess.run(command, env={**clean, **environment}, capture_output=True, text=True)


@pytest.mark.slow
def test_rows_quantiles_and_plots(tmp_path):
    path = tmp_path / "benchmarks.csv"
    done = run("run.py", "--providers", "ours", "eager", "--seconds", "0.01", "--output", str(path))
    assert done.returncode == 0, done.stderr
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["kernel"], row["provider"], row["mode"]) for row in rows} == {
        (kernel, provider, mode)
        for kernel in ("masked_gather", "infonce")
        for provider in ("ours", "eager")
        for mode in ("forward", "backward", "full")
    }
    assert all(0 < float(row["q20"]) <= float(row["median"]) <= float(row["q80"]) for row in rows)
    assert (tmp_path / "infonce_full_milliseconds.png").stat().st_size > 0
    if not torch.cuda.is_available():
        assert "No GPU: small sizes" in done.stdout


def test_the_interpreter_is_never_measured(tmp_path):
    path = tmp_path / "benchmarks.csv"
    done = run("run.py", "--output", str(path), TRITON_INTERPRET="1")
    assert done.returncode == 1
    assert "the interpreter's time says nothing" in done.stderr
    assert not path.exists()


def test_an_unknown_name_is_refused_with_the_choices():
    assert "no benchmark named 'gather'; choose from masked_gather, infonce" in run("run.py", "gather").stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_the_gpu_check_says_in_one_sentence_what_it_needs():
    done = run("gpu_check.py")
    assert done.returncode == 1
    assert done.stdout.strip().splitlines() == [
        "No CUDA device is visible; the GPU check needs one of compute capability 8.0 or higher (A100, H100)."
    ]
