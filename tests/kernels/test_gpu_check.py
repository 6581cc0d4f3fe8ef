"""The GPU check without a GPU: what of a stage that fails is lost, and when a target counts as met."""

import json
import operator
import time
from pathlib import Path

import torch

from scl_kernels.registry import operations
from sclds.run.processes import process as running

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "kernels" / "benchmarks"


def test_every_target_has_a_verdict_or_is_said_to_be_missing(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_targets
    import harness

    from scl_kernels.roofline import DEVICES

    def row(kernel, provider, x, median, metric="milliseconds", **config):
        config = json.dumps({"size": 512 * x**2, "rows": x * 324 // 390, "width": 768} | config)
        return harness.Measurement(kernel, provider, "full", metric, x, median, median, median, config, "H100", "", "")

    with harness.RowFile(tmp_path / "some.csv") as file:
        for one in (
            row("infonce", "triton", 32768, 10.0),
            row("infonce", "ours", 32768, 10.0),
            row("infonce", "eager", 32768, 9.0),
            row("attention_text", "sdpa", 8, 2.05),
            row("attention_text", "flash_attn", 8, 2.5),
            row("attention_text", "eager", 8, 2.0),
            row("base_step", "ours", 64, 100.0, flops=45e12),
            row("sigmoid_published", "ours", 65536, 0.64e9, "peak_bytes"),
            row("infonce", "ours", 16384, 3.0),
            row("infonce", "inf_cl", 16384, 4.0),
        ):
            file.keep(one)
    with (tmp_path / "some.csv").open("a") as file:
        file.write("cut,by,a,kill")
    header = "objectives,negatives,accumulation,waits\n"
    (tmp_path / "waits.csv").write_text(header + "a,a,1,\n" * 5 + "a,a,4,fusion.py:7: waits\n")
    (tmp_path / "attention_check.csv").write_text("passed\nTrue\n")
    (tmp_path / "real_step.csv").write_text("passed\nTrue\nTrue\n")
    (tmp_path / "evaluation.csv").write_text("what,figure\nimage samples measured,16\npictures,0\n")
    ended = {"waits": "failed with exit code 1", "attention_check": "stopped after 30 s", "step": "ok"}
    lines = gpu_targets.table(tmp_path, DEVICES[90], ["infonce"], ended)
    found = {line[:42].strip(): line[42:].split(maxsplit=1) for line in lines[1:]}
    assert found["infonce, share of peak"] == ["0.667", ">= 50%       met"]
    assert found["infonce against eager"] == ["1.111", "<= 1.03      MISSED"]
    assert found["attention_text against eager"] == ["1.025", "<= 1.03      met"]
    assert found["base step, MFU"] == ["0.455", ">= 40%       met"]
    assert found["base step, samples/s"] == ["640", "measured     met"]
    assert found["sigmoid at 65,536, memory"] == ["0.64", "GB  <= 0.25 GB   MISSED"]
    assert found["steps that wait for the device"] == ["1", "0            MISSED"]
    assert found["kernels that differ from fp64"] == ["-", "0            missing: not measured"]
    assert found["steps that a kernel changes"] == ["0", "0            met"]
    assert found["attention that differs from fp64"] == ["-", "0            missing: not measured"], "it was stopped"
    assert found["infonce against inf_cl, time"] == ["0.75", "<= 1         met"], "at the largest size of both"
    assert found["held-out sets measured there"] == ["1", ">= 1         met"]
    assert found["pictures drawn of a batch there"] == ["0", ">= 1         MISSED"]


def test_the_table_names_every_goal_of_the_gpu_path(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_targets
    import run as script

    names = [name for name in script.names_of_all() if name not in script.MODEL]
    lines = gpu_targets.table(tmp_path, None, names, {})
    assert all(line.endswith("missing: not measured") for line in lines[1:]), "nothing is met before it is measured"
    found = {line[:42].strip() for line in lines[1:]}
    assert len(found) == len(lines) - 1
    assert found >= {
        *("kernels that differ from fp64", "attention that differs from fp64", "steps that a kernel changes"),
        *("steps that wait for the device", "held-out sets measured there", "pictures drawn of a batch there"),
        *("base step, MFU", "base step, samples/s", "base step, time against no kernel"),
        *("recomputed base step, time against ours", "packed step, times as fast as published"),
        *("sigmoid at 65,536, memory", "sigmoid at 65,536, time", "infonce, a rank of 8 at 65,536, memory"),
        *("sigmoid against siglip_kernel, time", "infonce against inf_cl, time"),
        *("bf16 peak measured, random data", "decoding with data.device=mixed"),
        *(f"{name}, share of peak" for name in ("infonce", "sigmoid", "masked_gather", "dropout_norm")),
        *(f"{name} against eager" for name in (*names, "attention_image", "attention_text")),
    }


def test_a_stage_that_hangs_or_crashes_loses_only_itself(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_check

    monkeypatch.setattr(gpu_check, "LEAST", 0)
    stages = [
        gpu_check.Stage("hangs", ["-c", "import time; time.sleep(60)"], 0.5),
        gpu_check.Stage("crashes", ["-c", "import os; os.abort()"], 20),
        gpu_check.Stage("lacks", ["-c", "raise SystemExit(3)"], 20),
        gpu_check.Stage("works", ["-c", "pass"], 20),
    ]
    assert gpu_check.run_all(stages, 60) == {
        "hangs": "stopped after 0 s; what it had written is kept",
        "crashes": "failed with exit code -6",
        "lacks": "left out: a library is missing, see above",
        "works": "ok",
    }
    assert gpu_check.run_all(stages[3:], -1) == {"works": "left out: the time is used up"}


def test_what_a_stopped_stage_has_started_ends_with_it(monkeypatch, tmp_path):
    """Compilers and workers that went on would share the device with the stages that follow."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_check

    number = tmp_path / "number"
    child = f"import os, time; open({str(number)!r}, 'w').write(f'{{os.getpid()}} '); time.sleep(300)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {child!r}])"
    assert gpu_check.run_stage(gpu_check.Stage("s", ["-S", "-c", parent], 5), 5).startswith("stopped after")
    until = time.monotonic() + 20
    while (alive := running(int(number.read_text()))) and time.monotonic() < until:
        time.sleep(0.05)
    assert not alive


def test_kernels_are_compared_side_by_side_and_one_that_fails_is_told(monkeypatch, tmp_path):
    """Without a GPU each comparison of a kernel fails by itself: as many lines, all of them wrong, and no other end."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_stages

    assert sorted(gpu_stages._side_by_side(operator.neg, [1, 2, 3])) == [-3, -2, -1]
    if torch.cuda.is_available():
        return
    found = gpu_stages._compared(("gather_rows", torch.float32, False))
    operation = next(each for each in operations() if each.name == "gather_rows")
    assert len(found) == len(operation.cases) + len(operation.device_cases)
    assert {line[-1] for line in found} == {False}
    assert "CUDA" in found[0][3]


def test_every_stage_with_a_target_has_time_left_whatever_those_before_it_take(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_check

    now = 0.0
    begun = {}

    def takes_all(stage, limit):
        nonlocal now
        now, begun[stage.name] = now + limit, limit
        return "stopped"

    planned = gpu_check.stages(Path("folder"), ["gather_rows", "infonce", "sigmoid", *"abcde"], rehearse=False)
    monkeypatch.setattr(gpu_check.time, "monotonic", lambda: now)
    monkeypatch.setattr(gpu_check, "run_stage", takes_all)
    gpu_check.run_all(planned, gpu_check.LIMIT - gpu_check.RESERVE)
    assert now <= gpu_check.LIMIT - gpu_check.RESERVE
    assert {stage.name for stage in planned if stage.target} == begun.keys()
    assert all(begun[stage.name] == stage.limit for stage in planned if stage.decides)


def test_another_packages_loss_has_a_process_of_its_own(monkeypatch, tmp_path):
    """It may hang, or end its process by what it does on the device."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_check
    import others

    assert set(gpu_check.OTHERS.values()) == set(others._LOSSES)
    monkeypatch.setattr(gpu_check.importlib.util, "find_spec", lambda name: name == "inf_cl" or None)
    planned = {stage.name: stage.command for stage in gpu_check.stages(tmp_path, ["infonce", "sigmoid"], False)}
    assert {name for name in planned if name.endswith("_others")} == {"infonce_others"}
    assert planned["infonce_others"][1:4] == ["infonce", "--providers", "inf_cl"]
    for name in ("infonce", "sigmoid"):
        assert planned[name][2:6] == ["--without", "compile", "inf_cl", "siglip_kernel"]


def test_planned_stages_fit_the_limit_and_name_every_benchmark(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_check
    import run as script

    planned = gpu_check.stages(tmp_path, script.names_of_all(), rehearse=False)
    assert len({stage.name for stage in planned}) == len(planned), "each has a file of its own"
    assert {stage.name for stage in planned} >= {*script.names_of_all(), "waits", "base_step", "tests"}
    decides = sum(stage.limit for stage in planned if stage.decides)
    assert decides <= gpu_check.LIMIT / 2, "what must be right comes first, and leaves time for figures"
