"""Run the Triton kernels' tests under the interpreter, which has to be asked for before Triton is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
PARTS = ("infonce", "sigmoid and not infonce", "not infonce and not sigmoid")
"""Every test once, by its name; all of them in one process would take longer than a test may."""


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="test_triton.py runs on the GPU itself")
@pytest.mark.parametrize("part", PARTS)
def test_kernels_under_the_interpreter(part):
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", part]
    command.append(str(HERE / "test_triton.py"))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=HERE.parents[1])
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "passed" in done.stdout
    assert "skipped" not in done.stdout
