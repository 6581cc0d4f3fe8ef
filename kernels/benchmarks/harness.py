"""What every benchmark shares: timing, memory, and the long CSV that all plots read."""

import csv
import json
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
import triton
import triton.testing
from torch._functorch import config as functorch_config

from scl_kernels.backend import Backend, interpreting
from scl_kernels.measurement import Measurement

functorch_config.donated_buffer = False  # lets a compiled backward run again on the same graph

IMPLEMENTATIONS: dict[str, Backend] = {"triton": "triton", "reference": "torch"}
"""Provider: the backend that stands for it on a GPU."""
OWN = frozenset({"ours", *IMPLEMENTATIONS, "eager", "torch", "published"})
"""Providers whose failure is ours; any other is a library's, which may be of another version than this code knows."""


class Workload(NamedTuple):
    """One size of one kernel: functions from nothing to the output to differentiate, per provider.

    Providers: `ours` is what a run uses (`auto`), `triton` its kernel at any size, `reference` what `auto` takes where
    that does not pay off, `eager` code without either, `compile` that code under torch.compile; others by name.
    """

    x: int
    config: dict[str, Any]
    """`size`, where there is one, is what `scl_kernels.backend.pays_off` goes by."""
    inputs: list[torch.Tensor]
    """What gradients are taken of."""
    providers: dict[str, Callable[[], torch.Tensor]]
    case: str = ""
    """Appended to the kernel's name where it has several kinds of input."""


def implementations(function: Callable[..., torch.Tensor]) -> dict[str, Callable[[], torch.Tensor]]:
    """Return an operation's own providers: `ours`, and on a GPU those of IMPLEMENTATIONS.

    Args:
        function: The operation on its inputs; takes `backend`.
    """
    own = {name: partial(function, backend=backend) for name, backend in IMPLEMENTATIONS.items()}
    return {"ours": function, **(own if device() == "cuda" else {})}


def refuse_interpreter() -> None:
    """Stop where Triton's interpreter would be measured instead of a kernel.

    Raises:
        RuntimeError: TRITON_INTERPRET=1 is set.
    """
    if interpreting():
        raise RuntimeError("TRITON_INTERPRET=1 is set, and the interpreter's time says nothing; unset it to measure")


def device() -> str:
    """Return `cuda` where there is a GPU, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_name() -> str:
    """Return the GPU's name, or `cpu (N threads)`."""
    return torch.cuda.get_device_name() if device() == "cuda" else f"cpu ({torch.get_num_threads()} threads)"


@lru_cache(maxsize=1)
def commit() -> str:
    """Return the checked-out commit, or `unknown` outside a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8").stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _milliseconds(function: Callable[[], Any], seconds: float) -> tuple[float, float, float]:
    """Return median, 20 % and 80 % quantile of a call's time."""
    if device() == "cuda":
        median, q20, q80 = triton.testing.do_bench(
            function, warmup=25, rep=int(1000 * seconds), quantiles=[0.5, 0.2, 0.8]
        )
        return median, q20, q80
    function()
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        function()
        times.append(1e3 * (time.perf_counter() - start))
    fifths = statistics.quantiles(times, n=5)
    return statistics.median(times), fifths[0], fifths[3]


def _peak_bytes(function: Callable[[], Any]) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _calls(forward: Callable[[], torch.Tensor], inputs: list[torch.Tensor]) -> dict[str, Callable[[], Any]]:
    out = forward()
    d_out = torch.ones_like(out)
    return {
        "forward": forward,
        "backward": lambda: torch.autograd.grad(out, inputs, d_out, retain_graph=True),
        "full": lambda: torch.autograd.grad(forward(), inputs, d_out),
    }


def measure(
    kernel: str, workload: Workload, providers: Sequence[str], seconds: float, left_out: list[str]
) -> Iterator[Measurement]:
    """Measure one workload with its providers in every mode.

    A provider that runs out of memory, or whose library fails, has no rows, which is itself a result. Whatever fails,
    the other providers are measured.

    Args:
        kernel: The operation's name.
        workload: What to run.
        providers: Which providers; all that the workload has if empty.
        seconds: How long to repeat each call.
        left_out: Takes a sentence for every provider without rows.

    Raises:
        RuntimeError: TRITON_INTERPRET=1 is set: no row may come from the interpreter.
        Exception: At the end, the first that a provider of ours raised.
    """
    refuse_interpreter()
    wrong: Exception | None = None
    name = f"{kernel}_{workload.case}" if workload.case else kernel
    common = (json.dumps(workload.config), device_name(), f"torch {torch.__version__}, triton {triton.__version__}")
    for provider, forward in workload.providers.items():
        if providers and provider not in providers:
            continue
        try:
            for mode, call in _calls(forward, workload.inputs).items():
                times = _milliseconds(call, seconds)
                yield Measurement(name, provider, mode, "milliseconds", workload.x, *times, *common, commit())
                if device() == "cuda":
                    peaks = (float(_peak_bytes(call)),) * 3
                    yield Measurement(name, provider, mode, "peak_bytes", workload.x, *peaks, *common, commit())
        except torch.OutOfMemoryError:
            left_out.append(f"{name} x={workload.x} {provider}: out of memory")
            torch.cuda.empty_cache()
        except Exception as fault:  # what libraries raise has no common class
            wrong = wrong or (fault if provider in OWN else None)
            left_out.append(f"{name} x={workload.x} {provider}: {type(fault).__name__} {str(fault).splitlines()[:1]}")
    if wrong is not None:
        raise wrong


class RowFile:
    """A CSV that gets each row as it is measured, so that whoever is stopped loses none of them."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file)
        self._writer.writerow(Measurement._fields)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def keep(self, row: Measurement) -> None:
        """Write a row to the disk."""
        self._writer.writerow(row)
        self._file.flush()


def read(path: Path) -> list[Measurement]:
    """Return the rows of a CSV; a last line that a kill cut short is left out."""
    with path.open(newline="", encoding="utf-8") as file:
        lines = [line for line in csv.DictReader(file) if None not in line.values() and None not in line]
    return [Measurement.of_line(line) for line in lines]
