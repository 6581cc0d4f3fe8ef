"""Whether the driver of this host is new enough for the CUDA that torch was built with.

torch finds no device then and would train on the CPU without a word. Within a major version of CUDA an older driver
does (NVIDIA, CUDA Compatibility, "minor version compatibility"), so that the majors are compared.
"""

import contextlib
import subprocess

import torch

_SECONDS = 10
"""Longest wait for nvidia-smi, which hangs where a GPU has fallen off the bus."""


def driver_problem() -> str | None:
    """Return a clause that names both versions where the driver is too old for this torch; None otherwise."""
    built, newest = torch.version.cuda, _newest_cuda()
    if built is None or newest is None or newest[0] >= int(built.split(".")[0]):
        return None
    version = _driver_version()
    return (
        f"torch {torch.__version__} is built with CUDA {built}, and the driver of this host"
        f"{f' ({version})' if version else ''} goes up to CUDA {newest[0]}.{newest[1]}: update the driver, or install "
        f"torch built with CUDA {newest[0]} and this package's extra gpu-cu{newest[0]}"
    )


def _newest_cuda() -> tuple[int, int] | None:
    """Return major and minor version of the newest CUDA that the driver takes; None without a driver."""
    ask = getattr(torch._C, "_cuda_getDriverVersion", None)  # only torch built with CUDA has it
    found = ask() if ask is not None else 0
    return (found // 1000, found % 1000 // 10) if found else None


def _driver_version() -> str | None:
    """Return the version of the driver, as NVIDIA numbers them; None where nvidia-smi does not say it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=_SECONDS, check=False
        )
        if done.returncode == 0 and done.stdout.strip():
            return done.stdout.split()[0]
    return None
