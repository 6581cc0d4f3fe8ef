"""What needs a GPU, in at most 8 minutes: kernels against fp64 on the device, then benchmarks, into one folder.

Needs torch >= 2.11 with CUDA and triton >= 3.6, nothing else; runs the kernels' tests too where pytest is installed.
"""

import csv
import importlib.util
import re
import subprocess
import sys
import time
from pathlib import Path

OUTPUT = Path("runs/gpu-check")
LIMIT = 8 * 60
WANTED = {"torch": (2, 11), "triton": (3, 6)}
ROOT = Path(__file__).resolve().parents[2]


def missing() -> str | None:
    """Return what this machine lacks, in one sentence, or None."""
    for name, wanted in WANTED.items():
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed; the GPU check needs {name} >= {'.'.join(map(str, wanted))}."
        version = str(importlib.import_module(name).__version__)
        found = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
        if found < wanted:
            return f"{name} {version} is too old; the GPU check needs >= {'.'.join(map(str, wanted))}."
    import torch

    if not torch.cuda.is_available():
        return "No CUDA device is visible; the GPU check needs one of compute capability 8.0 or higher (A100, H100)."
    return None


def correctness(path: Path) -> int:
    """Compare every kernel with fp64 on the device, write the errors as CSV, return how many fail."""
    import torch

    from scl_kernels import threeway as t

    gathers = (*t.GATHER_CASES, t.GatherCase(50_000, 41_472, 325, 8, 768), t.GatherCase(10_000, 50_265, 514, 3, 1024))
    problems = (*t.INFONCE_CASES, (t.InfoNCECase(512, 2048, 512, 512), *[t.InfoNCECase(512, 2048, 768, 0)] * 4))
    failed = 0
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("kernel", "dtype", "case", "result", "error", "plain_error", "allowed", "passed"))
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            for compare, cases in (
                (t.compare_masked_gather, gathers),
                (t.compare_gather_rows, gathers),
                (t.compare_infonce, problems),
            ):
                for case in cases:
                    for found in compare(case, dtype, "cuda", "triton"):
                        writer.writerow((compare.__name__.removeprefix("compare_"), dtype, case, *found, found.passed))
                        failed += not found.passed
                        if not found.passed:
                            print(f"FAILED {compare.__name__} {dtype} {case}: {found}")
    return failed


def device_tests() -> bool:
    """Run the kernels' tests on the device where pytest is installed; return whether they pass."""
    if importlib.util.find_spec("pytest") is None:
        print("pytest is not installed: the comparisons above stand alone")
        return True
    command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=--import-mode=importlib", "-p", "no:cacheprovider"]
    return subprocess.run([*command, "tests/kernels/test_triton.py"], cwd=ROOT).returncode == 0


def against_peak(rows: list) -> None:
    """Print, per size, the share of the device's published peak that the kernels reach."""
    import torch

    from scl_kernels import roofline

    major, minor = torch.cuda.get_device_capability()
    device = roofline.DEVICES.get(10 * major + minor)
    if device is None:
        print(f"no published peaks stored for compute capability {major}.{minor}")
        return
    for row in rows:
        if (row.provider, row.mode, row.metric) != ("ours", "full", "milliseconds"):
            continue
        if row.kernel == "masked_gather":
            moved, _ = roofline.gather_terms(row.x, row.x * 324 // 390, 768, 2)
            share, unit = roofline.total(moved) / device.bytes_per_second, "bandwidth"
        else:
            share, unit = 3 * 4 * row.x**2 * 512 / device.flops, "bf16 FLOP/s (useful ones)"
        print(f"{row.kernel} x={row.x}: {share / (row.median / 1e3):.0%} of {device.name}'s peak {unit}")


def main() -> int:
    """Run everything; return 1 where something is wrong or missing."""
    lack = missing()
    if lack:
        print(lack)
        return 1
    start = time.monotonic()
    sys.path[:0] = [str(ROOT / "kernels"), str(Path(__file__).parent)]
    import harness
    import run

    harness.refuse_interpreter()
    OUTPUT.mkdir(parents=True, exist_ok=True)
    failed = correctness(OUTPUT / "correctness.csv")
    print(f"{failed} comparisons failed after {time.monotonic() - start:.0f} s")
    tests_pass = device_tests()
    left = LIMIT - (time.monotonic() - start) - 60
    rows = run.run(run.KERNELS, harness.PROVIDERS, 0.1, left)
    harness.write(OUTPUT / "benchmarks.csv", rows)
    run.plots(OUTPUT / "benchmarks.csv")
    against_peak(rows)
    print(f"{OUTPUT} holds correctness.csv, benchmarks.csv and the plots; {time.monotonic() - start:.0f} s in all")
    return 1 if failed or not tests_pass else 0


if __name__ == "__main__":
    sys.exit(main())
