"""What needs a GPU, in at most 8 minutes, into one folder: correctness, a real step, benchmarks, targets.

Kernels against fp64 on the device; a training step with and without each kernel; benchmarks with plots; shares of the
device's peak and whether anything is slower than eager code. Needs torch >= 2.11 with CUDA and triton >= 3.6, nothing
else; runs the kernels' tests too where pytest is installed, and draws plots where matplotlib is.
"""

import csv
import importlib.util
import itertools
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

OUTPUT = Path("runs/gpu-check")
LIMIT = 8 * 60
TESTS_LIMIT = 90
"""Seconds of the tests, whose kernels are for the most part compiled already."""
RESERVE = 60
"""Seconds kept for the last size begun and for the plots."""
NOISE = 0.03
"""By how much a median may exceed eager code's before it counts as slower: what one program's two runs differ by."""
MINIMUM = {"torch": (2, 11), "triton": (3, 6)}
ROOT = Path(__file__).resolve().parents[2]


def missing() -> str | None:
    """Return what this machine lacks, in one sentence, or None."""
    for name, least in MINIMUM.items():
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed; the GPU check needs {name} >= {'.'.join(map(str, least))}."
        version = str(importlib.import_module(name).__version__)
        found = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
        if found < least:
            return f"{name} {version} is too old; the GPU check needs >= {'.'.join(map(str, least))}."
    import torch

    if not torch.cuda.is_available():
        return "No CUDA device is visible; the GPU check needs one of compute capability 8.0 or higher (A100, H100)."
    return None


def correctness(path: Path) -> int:
    """Compare every kernel with fp64 on the device, write the errors as CSV, return how many fail."""
    import torch

    from scl_kernels.registry import operations

    failed = 0
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("kernel", "dtype", "case", "result", "error", "plain_error", "allowed", "passed"))
        for operation in operations():
            cases = (*operation.cases, *operation.device_cases)
            for dtype, case in itertools.product((torch.float32, torch.bfloat16, torch.float16), cases):
                for found in operation.compare(case, dtype, "cuda", "triton"):
                    writer.writerow((operation.name, dtype, case, *found, found.passed))
                    failed += not found.passed
                    if not found.passed:
                        print(f"FAILED {operation.name} {dtype} {case}: {found}")
    return failed


def device_tests() -> bool:
    """Run the kernels' tests on the device where pytest is installed; return whether they pass."""
    if importlib.util.find_spec("pytest") is None:
        print("pytest is not installed: the comparisons above stand alone")
        return True
    command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=--import-mode=importlib", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run([*command, "tests/kernels/test_triton.py"], cwd=ROOT, timeout=TESTS_LIMIT)
    except subprocess.TimeoutExpired:
        print(f"the kernels' tests were stopped after {TESTS_LIMIT} s; run pytest tests/kernels/test_triton.py for all")
        return True
    return done.returncode == 0


def real_step(path: Path) -> int:
    """Take a step with and without each kernel, write losses, differences and times, return how many differ."""
    try:
        import packed_step
        import real_step
    except ModuleNotFoundError as lack:
        print(f"the real step is left out: it needs {lack.name}, which is not installed")
        return 0
    sizes = packed_step.MID_SIZE | {"width": 256, "batch": 64}
    results = real_step.compare(sizes, "cuda", repeats=5)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow((*real_step.StepResult._fields, "passed"))
        writer.writerows((*result, result.passed) for result in results)
    for result in results:
        print(
            f"{'ok' if result.passed else 'FAILED'}: real step without {result.without} kernels: "
            f"{result.milliseconds:.1f} ms, loss {result.loss:.6f} (off by {result.loss_error:.1e}), gradient off by "
            f"{result.gradient_error:.1e}"
        )
    return sum(not result.passed for result in results)


def shares(rows: list, device: Any) -> list[str]:
    """Return the share of a device's published peak that every kernel reaches, per size, whole and by direction."""
    from scl_kernels.registry import operations

    peaks = {
        "bytes": (device.bytes_per_second, "the peak bandwidth"),
        "FLOPs": (device.flops, "the peak bf16 FLOP/s"),
    }
    lines = []
    for row in rows:
        own = [o for o in operations() if row.kernel == o.name or row.kernel.startswith(f"{o.name}_")]
        if not own or row.provider != "triton" or row.metric != "milliseconds":
            continue
        work = own[0].work(row.x, json.loads(row.config), row.mode)
        if work is not None:
            peak, what = peaks[work.unit]
            target = "" if work.target is None else f" (target {work.target:.0%})"
            share = work.amount / peak / (row.median / 1e3)
            lines.append(f"{row.kernel} x={row.x} {row.mode}: {share:.0%} of {what}{target}")
    return lines


def targets(rows: list) -> list[str]:
    """Return, per size, the shares of the device's published peak, and what loses to eager code."""
    import torch

    from scl_kernels import roofline
    from scl_kernels.pairwise.tiles import architecture

    capability = architecture(torch.device("cuda"))
    device = roofline.DEVICES.get(capability)
    if device:
        lines = [f"Shares of {device.name}'s published peaks", *shares(rows, device)]
    else:
        lines = [f"no published peaks are stored for compute capability {capability / 10}"]
    full = {(r.kernel, r.x, r.provider): r.median for r in rows if (r.mode, r.metric) == ("full", "milliseconds")}
    for (kernel, x, provider), milliseconds in full.items():
        eager = full.get((kernel, x, "eager"))
        if provider == "ours" and eager is not None:
            verdict = "SLOWER" if milliseconds > (1 + NOISE) * eager else "never slower"
            lines.append(f"{kernel} x={x}: {verdict} than eager, {milliseconds:.3f} against {eager:.3f} ms")
    return lines


def main() -> int:
    """Run everything; return 1 where something is wrong or missing."""
    lack = missing()
    if lack:
        print(lack)
        return 1
    start = time.monotonic()
    sys.path[:0] = [str(ROOT), str(ROOT / "kernels"), str(Path(__file__).parent)]
    import harness
    import run

    harness.refuse_interpreter()
    OUTPUT.mkdir(parents=True, exist_ok=True)
    failed = correctness(OUTPUT / "correctness.csv")
    print(f"{failed} comparisons failed after {time.monotonic() - start:.0f} s")
    failed += real_step(OUTPUT / "real_step.csv")
    tests_pass = device_tests()
    left = LIMIT - (time.monotonic() - start) - RESERVE
    rows, left_out = run.run(run.names_of_all(), (), 0.1, left)
    harness.write(OUTPUT / "benchmarks.csv", rows)
    run.plots(OUTPUT / "benchmarks.csv")
    found = targets(rows)
    (OUTPUT / "targets.txt").write_text(
        "\n".join([*found, *(f"left out: {sentence}" for sentence in left_out)]) + "\n", encoding="utf-8"
    )
    print(*found, sep="\n")
    print(f"{OUTPUT} holds correctness, real_step and benchmarks (.csv), targets.txt and the plots")
    print(f"{len(left_out)} measurements left out; {time.monotonic() - start:.0f} s in all")
    print(f"Take the sizes from which kernels pay off: python -m scl_kernels.crossover {OUTPUT / 'benchmarks.csv'}")
    return 1 if failed or not tests_pass else 0


if __name__ == "__main__":
    sys.exit(main())
