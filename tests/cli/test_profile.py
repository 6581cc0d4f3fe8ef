import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def launch(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(ROOT / "launchers" / "profile.py"), *arguments]
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_measures_any_configuration(tmp_path: Path) -> None:
    sizes = ["batch.global_size=16", "batch.max_micro_size=16"]
    done = launch("--config", "configs/quickstart.yaml", "--steps", "2", "--json", *sizes)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout[done.stdout.index("{\n") :])
    assert found["samples_per_second"] > 0
    assert found["seconds"]["total"] >= found["seconds"]["forward"] > 0
    assert 5 < found["text_tokens"] < 32
    assert found["flops_per_sample"] * found["samples_per_second"] < found["peak_flops"]


def test_faults_are_sentences() -> None:
    assert "at least 1" in launch("--config", "configs/quickstart.yaml", "--steps", "0").stderr
    wrong = launch("--config", "configs/quickstart.yaml", "batch.global_sise=8")
    assert wrong.returncode == 2
    assert "global_size" in wrong.stderr
