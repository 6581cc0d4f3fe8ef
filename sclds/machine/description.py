"""What a run records of where it ran: versions, the commit of the code, the processor and the GPUs of this machine."""

import contextlib
import hashlib
import os
import platform
import resource
import socket
import subprocess
from pathlib import Path
from typing import Any

import torch

from sclds.machine.packages import DISTRIBUTIONS, installed_version

GIT_SECONDS = 10
_CODE = Path(__file__).resolve().parents[2]


def code_digest(package: Path) -> str:
    """Return a short SHA-256 over a package's Python files, which change more often than its version."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def versions() -> dict[str, str]:
    """Return the version of Python, torch, its CUDA, and every library that is installed."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    for name, distributions in DISTRIBUTIONS.items():
        installed = next(filter(None, map(installed_version, distributions)), None)
        if installed is not None:
            found[name] = installed
    return found


def git_state(code: Path = _CODE) -> dict[str, Any] | None:
    """Return the commit that the code was cloned at, and whether files differ from it; None outside a clone."""
    if not (code / ".git").exists():
        return None
    commit, changes = _git(code, "rev-parse", "HEAD"), _git(code, "status", "--porcelain", "--untracked-files=no")
    return None if commit is None or changes is None else {"commit": commit, "dirty": bool(changes)}


def _git(code: Path, *words: str) -> str | None:
    # a lock that another git holds, or an owner that git does not trust, must not keep a run from starting
    try:
        done = subprocess.run(
            ["git", "-C", str(code), "--no-optional-locks", *words],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=GIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def this_process(device: torch.device) -> dict[str, Any]:
    """Return host, processor and GPU of a process that computes on `device`."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return {"name": socket.gethostname(), "cpu": processor(), "cores": len(os.sched_getaffinity(0)), "gpu": gpu}


def processor() -> str:
    """Return the processor's model."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def peak_memory(device: torch.device) -> tuple[int, int]:
    """Return the most bytes that this process held so far on the host, and that its tensors took of a GPU (else 0)."""
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return host, torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
