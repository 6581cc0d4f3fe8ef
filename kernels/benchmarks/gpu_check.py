"""What needs a GPU, in at most 8 minutes, into one folder: correctness, a real step, benchmarks, targets.

Each stage runs in a process of its own under its own limit and writes line by line, so that what hangs or crashes loses
nothing but itself. Needs torch >= 2.11 with CUDA and triton >= 3.6, nothing else; runs more where pytest, pydantic,
DALI, flash-attn, inf_cl or siglip-kernel are, and says what was left out. `--rehearse` walks through all of it on the
CPU with small sizes.
"""

import argparse
import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

OUTPUT = Path("runs/gpu-check")
LIMIT = 8 * 60
RESERVE = 15
"""Seconds kept for the table and the plots."""
LEAST = 15
"""Seconds under which no stage is begun, and that stages before it leave to each one with a target."""
OTHERS = {"infonce": "inf_cl", "sigmoid": "siglip_kernel"}
"""Benchmarks with another package's loss beside ours, which has a process of its own."""
MINIMUM = {"torch": (2, 11), "triton": (3, 6)}
ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "kernels" / "benchmarks"
PATIENCE = 5
"""How many times as long a rehearsal may take, on a processor that others use too."""
LACKS = 3
"""Exit code of a stage that a missing library leaves out."""


class Stage(NamedTuple):
    """One process of the check."""

    name: str
    command: list[str]
    limit: float
    """Seconds at most."""
    decides: bool = False
    """Whether its failure is the check's, and not only a missing figure."""
    target: bool = True
    """Whether a target is read from it."""


def missing(rehearse: bool = False) -> str | None:
    """Return what this machine lacks, in one sentence, or None."""
    for name, least in MINIMUM.items():
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed; the GPU check needs {name} >= {'.'.join(map(str, least))}."
        version = str(importlib.import_module(name).__version__)
        found = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
        if found < least:
            return f"{name} {version} is too old; the GPU check needs >= {'.'.join(map(str, least))}."
    import torch

    if not rehearse and not torch.cuda.is_available():
        return "No CUDA device is visible; the GPU check needs one of compute capability 8.0 or higher (A100, H100)."
    return None


def stages(folder: Path, names: Sequence[str], rehearse: bool) -> list[Stage]:
    """Return the stages in order: what is right first, then what has targets, what may take long (compile) last."""
    flags = ["--rehearse"] if rehearse else []
    seconds = "0.002" if rehearse else "0.1"
    patience = PATIENCE if rehearse else 1

    def own(name: str, limit: float, decides: bool = False) -> Stage:
        return Stage(name, [str(SCRIPTS / "gpu_stages.py"), name, str(folder), *flags], patience * limit, decides)

    def benchmark(name: str, limit: float, title: str, *choice: str, target: bool = True) -> Stage:
        output = ["--output", str(folder / f"{title}.csv"), "--no-plots", "--limit", str(limit), "--seconds", seconds]
        return Stage(title, [str(SCRIPTS / "run.py"), name, *choice, *output], patience * (limit + 5), target=target)

    pytest = ["-m", "pytest", "-q", "-o", "addopts=--import-mode=importlib", "-p", "no:cacheprovider"]
    tests = Stage("tests", [*pytest, str(ROOT / "tests" / "kernels" / "test_triton.py")], 75, target=False)
    here = {} if rehearse else {n: package for n, package in OTHERS.items() if importlib.util.find_spec(package)}
    alone = ("--without", "compile", *OTHERS.values())
    return [
        own("correctness", 75, decides=True),
        own("attention_check", 30, decides=True),
        own("step", 45, decides=True),
        own("waits", 60, decides=True),
        own("evaluation", 30, decides=True),
        own("base_step", 75),
        own("peak", 15),
        *(benchmark(name, 35, name, *alone) for name in sorted(names, key=lambda name: name not in OTHERS)),
        *(benchmark(name, 20, f"{name}_others", "--providers", package) for name, package in here.items()),
        own("decoding", 20),
        *([] if rehearse else [tests]),
        *(
            benchmark(name, 25, f"{name}_compiled", "--providers", "compile", target=False)
            for name in names
            if not rehearse
        ),
    ]


def run_stage(stage: Stage, limit: float, environment: dict[str, str] | None = None) -> str:
    """Run a stage and return how it ended: `ok`, `failed`, `stopped after N s`, or what it lacks."""
    # a group of its own: processes that it has started would keep the device from the stages that follow
    process = subprocess.Popen([sys.executable, *stage.command], cwd=ROOT, env=environment, start_new_session=True)
    try:
        code = process.wait(limit)
    except subprocess.TimeoutExpired:
        return f"stopped after {limit:.0f} s; what it had written is kept"
    finally:
        with contextlib.suppress(ProcessLookupError):  # all of them have ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if code == LACKS:
        return "left out: a library is missing, see above"
    return "ok" if code == 0 else f"failed with exit code {code}"


def run_all(planned: Sequence[Stage], limit: float) -> dict[str, str]:
    """Run stages one after another within `limit` seconds; return how each ended."""
    end, ended = time.monotonic() + limit, {}
    for number, stage in enumerate(planned):
        left = end - time.monotonic()
        kept = LEAST * sum(later.target for later in planned[number + 1 :])
        if stage.name == "tests" and importlib.util.find_spec("pytest") is None:
            ended[stage.name] = "left out: pytest is not installed"
        elif left < LEAST:
            ended[stage.name] = "left out: the time is used up"
        else:
            begun = time.monotonic()
            ended[stage.name] = run_stage(stage, min(stage.limit, max(LEAST, left - kept), left))
            print(f"-- {stage.name}: {ended[stage.name]} ({time.monotonic() - begun:.0f} s)", flush=True)
    return ended


def report(folder: Path, names: Sequence[str], ended: dict[str, str], planned: Sequence[Stage]) -> int:
    """Write and print the table of targets; return 1 where something that decides went wrong."""
    import gpu_targets
    import harness
    import run
    import torch

    from scl_kernels import roofline
    from scl_kernels.pairwise.tiles import architecture

    device = roofline.DEVICES.get(architecture(torch.device("cuda"))) if torch.cuda.is_available() else None
    lines = [
        *gpu_targets.table(folder, device, names, ended),
        "",
        *(f"stage {name}: {end}" for name, end in ended.items()),
    ]
    (folder / "targets.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    everything = folder / "benchmarks.csv"
    with harness.RowFile(everything) as file:
        for row in (row for title in ended if (folder / f"{title}.csv").is_file() for row in _rows(folder, title)):
            file.keep(row)
    run.plots(everything)
    print(*lines, sep="\n")
    wrong = [stage.name for stage in planned if stage.decides and ended[stage.name].startswith(("failed", "stopped"))]
    print(f"{folder} holds every stage's CSV, benchmarks.csv, targets.txt and the plots")
    print(f"Take the sizes from which kernels pay off: python -m scl_kernels.crossover {everything}")
    if wrong:
        print(f"WRONG: {', '.join(wrong)}")
    return 1 if wrong else 0


def _rows(folder: Path, title: str) -> list:
    import gpu_targets
    import harness

    path = folder / f"{title}.csv"
    return harness.read(path) if gpu_targets.has_rows(path) else []


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything; return 1 where something is wrong or missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, small: proves no figure")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args(arguments)
    lack = missing(options.rehearse)
    if lack:
        print(lack)
        return 1
    start = time.monotonic()
    sys.path[:0] = [str(ROOT), str(ROOT / "kernels"), str(SCRIPTS)]
    import harness
    import run

    harness.refuse_interpreter()
    folder = options.output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.csv"):
        old.unlink()
    planned = stages(folder, run.names_of_all(), options.rehearse)
    ended = run_all(planned, (PATIENCE if options.rehearse else 1) * LIMIT - RESERVE)
    code = report(folder, [n for n in run.names_of_all() if n not in run.MODEL], ended, planned)
    print(f"{time.monotonic() - start:.0f} s in all")
    return code


if __name__ == "__main__":
    sys.exit(main())
