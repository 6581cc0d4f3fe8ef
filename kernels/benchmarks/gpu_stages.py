"""The stages of the GPU check, each run in a process of its own: `python gpu_stages.py STAGE FOLDER [--rehearse]`.

A stage writes what it finds line by line, so that one that is stopped loses nothing, and exits 1 where something is
wrong. `--rehearse` takes the CPU, the references and small sizes, and so walks through every line but the kernels'.
"""

import argparse
import csv
import importlib.util
import itertools
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import harness
import pydantic_stand_in
import torch

pydantic_stand_in.install()

ROOT = Path(__file__).resolve().parents[2]
MOST_WORKERS = 8
"""Processes that share the device while kernels are compared: each holds a context of half a gigabyte."""


class Lines:
    """A CSV that is written line by line."""

    def __init__(self, path: Path, header: tuple[str, ...]):
        self._file = path.open("w", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file)
        self.add(header)

    def add(self, line: tuple[Any, ...]) -> None:
        """Write a line to the disk."""
        self._writer.writerow(line)
        self._file.flush()


def correctness(folder: Path, rehearse: bool) -> int:
    """Compare every kernel with fp64 on the device; return how many comparisons fail.

    Nearly all of it is compiling (about 290 kernels, a minute of one core), so operations and dtypes go side by side.
    """
    from scl_kernels.registry import operations

    failed = 0
    header = ("kernel", "dtype", "case", "result", "error", "plain_error", "allowed", "passed")
    lines = Lines(folder / "correctness.csv", header)
    dtypes = (torch.float32,) if rehearse else (torch.float32, torch.bfloat16, torch.float16)
    tasks = [(operation.name, dtype, rehearse) for operation in operations() for dtype in dtypes]
    for found in map(_compared, tasks) if rehearse else _side_by_side(_compared, tasks):
        for line in found:
            lines.add(line)
            failed += not line[-1]
            if not line[-1]:
                print(f"FAILED {' '.join(map(str, line))}")
    return failed


def _compared(task: tuple[str, torch.dtype, bool]) -> list[tuple[Any, ...]]:
    """Return the comparisons of an operation in a dtype; one that failed on the way is told as one that is wrong."""
    from scl_kernels.registry import operations

    name, dtype, rehearse = task
    operation = next(each for each in operations() if each.name == name)
    found: list[tuple[Any, ...]] = []
    for case in operation.cases[:1] if rehearse else (*operation.cases, *operation.device_cases):
        try:
            compared = operation.compare(case, dtype, harness.device(), "torch" if rehearse else "triton")
            found += [(name, dtype, case, *each, each.passed) for each in compared]
        except Exception as fault:  # what a launch raises has no common class, and other cases say where it begins
            found.append((name, dtype, case, f"{type(fault).__name__} {fault}"[:300], "", "", "", False))
    return found


def _side_by_side(function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[Any]:
    """Yield what a function returns for tasks in processes of their own, as it comes."""
    workers = min(len(tasks), os.cpu_count() or 1, MOST_WORKERS)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        for done in as_completed([pool.submit(function, task) for task in tasks]):
            yield done.result()


def attention_check(folder: Path, rehearse: bool) -> int:
    """Compare every attention backend that is here with fp64; return how many comparisons fail."""
    import attention_check as comparing

    from sclds.machine.implementations import this_machine

    failed, machine = 0, this_machine()
    header = ("backend", "precision", "case", "form", "result", "error", "plain_error", "allowed", "passed")
    lines = Lines(folder / "attention_check.csv", header)
    for backend, why in comparing.absent(machine).items():
        print(f"{backend}: left out: {why}")
    for *where, found in comparing.results(machine, torch.device(harness.device()), rehearse):
        lines.add((*where, *found, found.passed))
        failed += not found.passed
        if not found.passed:
            print(f"FAILED {' '.join(where)}: {found}")
    return failed


def step(folder: Path, rehearse: bool) -> int:
    """Take a step with and without each kernel, write losses, differences and times; return how many differ."""
    import packed_step
    import real_step

    sizes = packed_step.SMALL if rehearse else packed_step.MID_SIZE | {"width": 256, "batch": 64}
    lines = Lines(folder / "real_step.csv", (*real_step.StepResult._fields, "passed"))
    results = real_step.compare(sizes, harness.device(), repeats=1 if rehearse else 5)
    for result in results:
        lines.add((*result, result.passed))
        print(
            f"{'ok' if result.passed else 'FAILED'}: real step without {result.without} kernels: "
            f"{result.milliseconds:.1f} ms, loss {result.loss:.6f} (off by {result.loss_error:.1e}), gradient off by "
            f"{result.gradient_error:.1e}"
        )
    return sum(not result.passed for result in results)


@contextmanager
def _no_waiting() -> Iterator[None]:
    """Let CUDA raise where the host would wait for it; nothing on the CPU."""
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if gpu:
            torch.cuda.set_sync_debug_mode("default")


def waits(folder: Path, rehearse: bool) -> int:
    """Take the whole `train_step` where nothing may wait for the device; the second one, when all is compiled.

    With one and with four accumulation steps and both kinds of negatives, images and videos, and every objective.
    """
    import waiting

    failed, lines = 0, Lines(folder / "waits.csv", ("objectives", "negatives", "accumulation", "waits"))
    published = [("published", *each) for each in itertools.product(("global_batch", "micro_batch"), (1, 4))]
    for objectives, negatives, accumulation in (*published, ("all", "global_batch", 4), ("all", "micro_batch", 1)):
        take = waiting.step_of(objectives, negatives, accumulation, harness.device())
        take(0)
        fault = ""
        try:
            with _no_waiting():
                take(1)
        except RuntimeError as found:
            fault = waiting.place_of(found)
        failed += bool(fault)
        lines.add((objectives, negatives, accumulation, fault))
        what = f"{objectives} objectives, {negatives}, {accumulation} accumulation steps"
        print(f"{'FAILED' if fault else 'ok'}: {what}: {fault or 'no waits'}")
    return failed


def evaluation(folder: Path, rehearse: bool) -> int:
    """Measure on held-out data and draw pictures on the device; what they need beyond torch may be missing."""
    import waiting

    lines = Lines(folder / "evaluation.csv", ("what", "figure"))
    for what, figure in waiting.evaluated(harness.device()):
        lines.add((what, figure))
        print(f"{what}: {figure}")
    return 0


def base_step(folder: Path, rehearse: bool) -> int:
    """Measure the base model's step under every implementation."""
    import base_step as benchmark

    with harness.RowFile(folder / "base_step.csv") as file:
        for row in benchmark.rows(2 if rehearse else benchmark.REPEATS):
            file.keep(row)
            print(f"base_step {row.provider:20} {row.metric:12} {row.median:12.4g}", flush=True)
    return 0


def peak(folder: Path, rehearse: bool) -> int:
    """Measure the FLOPs per second of large products of random matrices."""
    from waiting import measured_peak

    lines = Lines(folder / "peak.csv", ("dtype", "flops_per_second"))
    for dtype in (torch.float32,) if rehearse else (torch.bfloat16, torch.float32):
        lines.add((dtype, measured_peak(dtype)))
    return 0


def decoding(folder: Path, rehearse: bool) -> int:
    """Decode generated JPEGs with `data.device: mixed`, or on the CPU in a rehearsal."""
    from waiting import decoding_rate

    lines = Lines(folder / "decoding.csv", ("device", "images_per_second"))
    device = "cpu" if rehearse else "mixed"
    lines.add((device, decoding_rate(device)))
    return 0


STAGES: dict[str, Callable[[Path, bool], int]] = {
    stage.__name__: stage
    for stage in (correctness, attention_check, step, waits, evaluation, peak, base_step, decoding)
}


def main() -> int:
    """Run one stage; say what it lacks where a library is missing (exit code 3)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rehearse", action="store_true")
    options = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]
    try:
        return 1 if STAGES[options.stage](options.folder, options.rehearse) else 0
    except ModuleNotFoundError as lack:
        if importlib.util.find_spec((lack.name or "").partition(".")[0] or "torch") is not None:
            raise
        print(f"{options.stage}: needs {lack.name}, which is not installed")
        return 3


if __name__ == "__main__":
    sys.exit(main())
