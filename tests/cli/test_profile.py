import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sclds.cli.main import main
from tests.benchmarks.test_variants import KEYS

ROOT = Path(__file__).parents[2]


def launch(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(ROOT / "launchers" / "profile.py"), *arguments]
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_measures_any_configuration(tmp_path: Path) -> None:
    sizes = ["batch.global_size=16", "batch.max_micro_size=16"]
    done = launch("--config", "configs/quickstart.yaml", "--steps", "2", "--trace", "--out", str(tmp_path), *sizes)
    assert done.returncode == 0, done.stderr
    profile = json.loads((tmp_path / "profile.json").read_text(encoding="utf-8"))
    assert (profile["kind"], profile["version"], profile["name"]) == ("profile", 1, "quickstart")
    assert profile["environment"]["hosts"][0]["cpu"]
    assert profile["config"]["batch"]["global_size"] == 16
    [variant] = profile["variants"]
    assert variant.keys() >= KEYS
    assert variant["failed"] is None
    seconds, whole = variant["seconds"], sum(variant["seconds"].values())
    assert min(seconds[name] for name in ("data", "text_encoder", "vision_encoder", "fusion", "backward")) > 0
    assert seconds.keys() == variant["quantiles"].keys()
    assert whole == pytest.approx(16 / variant["samples_per_second"], rel=0.2)
    assert 0 < variant["mfu_measured"] <= variant["hfu_measured"] < 1
    assert (variant["mfu"], variant["overlap"], variant["wire_bytes"]) == (None, None, 0)
    with gzip.open(tmp_path / "traces" / "rank0.json.gz") as trace:
        names = {event.get("name") for event in json.load(trace)["traceEvents"]}
    assert {"phase:fusion", "phase:backward", "phase:optimizer"} <= names
    [text] = EventAccumulator(str(tmp_path / "traces")).Reload().Tensors("trace/text_summary")
    [shown] = text.tensor_proto.string_val
    assert str(tmp_path / "traces" / "rank0.json.gz").encode() in shown
    assert b"| `aten::addmm` | 0.000 | " in shown
    assert f"Written to {tmp_path / 'profile.json'}" in " ".join(done.stdout.split())


def test_a_variant_that_does_not_exist_is_told_with_those_that_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "--config", "quickstart", "--compare", "zero_9"]) == 2
    assert "zero_9 is no variant: give configured, published, kernels_triton" in capsys.readouterr().err


def test_faults_are_sentences() -> None:
    assert "at least 1" in launch("--config", "configs/quickstart.yaml", "--steps", "0").stderr
    wrong = launch("--config", "configs/quickstart.yaml", "batch.global_sise=8")
    assert wrong.returncode == 2
    assert "global_size" in wrong.stderr
