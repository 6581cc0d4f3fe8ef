"""Whether pre-training can run here: what this machine has and lacks, what that costs, and how it is fixed."""

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sclds.machine.packages import DISTRIBUTIONS, installed_version

if TYPE_CHECKING:
    from sclds.config import ModelConfig
    from sclds.machine.attention import AttentionBackends, Machine

State = Literal["ok", "optional", "missing"]
"""`optional`: a run works without it; `missing`: pre-training cannot run here."""
OLDEST_PYTHON = (3, 11)
LEAST_DISK = 5
"""GiB; a checkpoint of the base model with its optimizer state is about 4.5."""
LEAST_SHARED_MEMORY = 256
"""MiB; collectives between processes of one host pass through /dev/shm."""
SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    name: str
    state: State
    found: str
    """What is there, in a few words."""
    cost: str = ""
    """What is lost without it; empty where nothing is."""
    remedy: str = ""
    """The command or setting that supplies it."""


def examine(collectives: Callable[[], Collection[str]]) -> list[Finding]:
    """Look at everything; no check keeps another from being made.

    Args:
        collectives: Returns the names of the communication libraries that torch has here; the room that knows process
            groups lies above this one.
    """

    def _collectives() -> list[Finding]:
        return _of_collectives(collectives())

    checks: tuple[Callable[[], list[Finding]], ...] = (
        _python,
        _torch,
        _libraries,
        _dali,
        _compilers,
        _collectives,
        _optional,
        _choices,
        _accelerator,
        _room,
    )
    findings = []
    for check in checks:
        try:
            findings += check()
        except Exception as fault:  # a broken installation raises anything, and is what this command is to report
            name = check.__name__.removeprefix("_")
            findings.append(
                Finding(name, "missing", f"{type(fault).__name__}: {fault}", "cannot be looked at", "make setup")
            )
    return findings


def _python() -> list[Finding]:
    wanted = ".".join(map(str, OLDEST_PYTHON))
    if sys.version_info >= OLDEST_PYTHON:
        return [Finding("Python", "ok", platform.python_version())]
    return [
        Finding("Python", "missing", platform.python_version(), f"needs {wanted}", f"make setup PYTHON=python{wanted}")
    ]


def _torch() -> list[Finding]:
    if installed_version("torch") is None:
        return [Finding("torch", "missing", "not installed", "nothing runs", "make setup")]
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    findings = [Finding("torch", "ok", torch.__version__)]
    if count:
        names = sorted({torch.cuda.get_device_name(i) for i in range(count)})
        return [*findings, Finding("CUDA devices", "ok", f"{count}: {', '.join(names)}")]
    built = torch.version.cuda
    from sclds.machine.driver import driver_problem

    too_old = driver_problem()
    if too_old is not None:
        told, _, remedy = too_old.partition(": ")
        return [*findings, Finding("CUDA devices", "optional", "the driver is too old", told, remedy)]
    why = "none visible to torch" if built else "this torch is built without CUDA"
    remedy = "check nvidia-smi and CUDA_VISIBLE_DEVICES" if built else "pip install torch (a CUDA build), on a GPU host"
    cost = "runs on CPU: enough for the quickstart and tests, not for the base model"
    return [*findings, Finding("CUDA devices", "optional", why, cost, remedy)]


def _libraries() -> list[Finding]:
    wanted: tuple[tuple[str, str, State, str], ...] = (
        ("deepspeed", "deepspeed", "missing", "no training"),
        ("av", "av", "missing", "videos cannot be checked or prepared"),
        ("triton", "triton", "optional", "our kernels run as their PyTorch twins, slower on GPUs"),
        ("transformers", "transformers", "optional", "only the embedded tokenizer; no Hugging Face weights"),
    )
    findings = []
    for distribution, module, state, cost in wanted:
        version = installed_version(distribution)
        if version is None and not _importable(module):
            findings.append(Finding(distribution, state, "not installed", cost, f"pip install {distribution}"))
        else:
            findings.append(Finding(distribution, "ok", version or "installed"))
    return findings


def _dali() -> list[Finding]:
    """Return which of DALI's builds there is: the one of torch's CUDA is asked for, either one does."""
    import torch

    builds = DISTRIBUTIONS["dali"]
    wanted = builds[(torch.version.cuda or "").startswith("13.")]
    found = {name: version for name in builds if (version := installed_version(name)) is not None}
    if len(found) > 1:
        cost = "both hold the same files: the one installed last counts, and removing either breaks both"
        remedy = f"pip uninstall {' '.join(found)}; then pip install {wanted}"
        return [Finding("DALI", "optional", " and ".join(found), cost, remedy)]
    if not found and not _importable("nvidia.dali"):
        cost = "no decoding of images and videos"
        return [Finding(wanted, "missing", "not installed", cost, f"pip install {wanted}")]
    return [Finding(name, "ok", version) for name, version in (found or {wanted: "installed"}).items()]


def _compilers() -> list[Finding]:
    wanted = (
        (
            "gcc",
            "on a GPU Triton cannot build what launches our kernels; engine.kernels=torch does",
            "apt-get install gcc",
        ),
        ("ninja", "optimizer.implementation=deepspeed cannot be built; torch's AdamW does", "pip install ninja"),
    )
    beside_python = str(Path(sys.executable).parent)
    search = f"{beside_python}{os.pathsep}{os.environ.get('PATH', '')}"
    findings = []
    for name, cost, remedy in wanted:
        place = shutil.which(name, path=search)
        findings.append(
            Finding(name, "ok", place) if place else Finding(name, "optional", "not found", cost, remedy),
        )
    return findings


def _of_collectives(found: Collection[str]) -> list[Finding]:
    findings = []
    for name, cost in (("gloo", "no runs on CPU"), ("nccl", "no runs on several GPUs")):
        if name in found:
            findings.append(Finding(name, "ok", "in torch"))
        else:
            findings.append(Finding(name, "optional", "not in this torch", cost, "pip install torch (a CUDA build)"))
    if not found:
        findings.append(Finding("collectives", "missing", "none in this torch", "no training", "pip install torch"))
    return findings


def _optional() -> list[Finding]:
    from scl_kernels.optional import optional_libraries

    return [
        Finding(found.name, "ok", found.why)
        if found.present
        else Finding(found.name, "optional", found.why, "slower; a run works without it", found.remedy)
        for found in optional_libraries()
    ]


def _choices() -> list[Finding]:
    from sclds.config import EngineConfig, ModelConfig
    from sclds.machine.implementations import choose_for, this_machine

    engine, model, machine = EngineConfig(), ModelConfig(), this_machine()
    chosen = choose_for(engine, model, machine)
    return [
        Finding("engine.kernels=auto", "ok", chosen.kernels),
        Finding("engine.attention=auto", "ok", str(chosen.attention), _passed_over(chosen.attention, model, machine)),
    ]


def _passed_over(chosen: "AttentionBackends", model: "ModelConfig", machine: "Machine") -> str:
    """Return which attention backends that are preferred to those chosen cannot be had, and why."""
    from sclds.machine.attention import BACKENDS, call_sites, obstacle

    reasons: dict[str, None] = {}
    for site, wanted in call_sites(model, "bf16").items():
        for name in BACKENDS:
            if name == getattr(chosen, site):
                break
            reasons[f"not {name}: {obstacle(name, wanted, machine)}"] = None
    return "; ".join(reasons)


def _accelerator() -> list[Finding]:
    set_to = os.environ.get("DS_ACCELERATOR")
    if _on_cuda():
        return [Finding("DS_ACCELERATOR", "ok", set_to or "not set: DeepSpeed takes CUDA")]
    if set_to == "cpu":
        return [Finding("DS_ACCELERATOR", "ok", "cpu")]
    cost = "DeepSpeed may look for devices that are not there"
    return [Finding("DS_ACCELERATOR", "optional", set_to or "not set", cost, "export DS_ACCELERATOR=cpu")]


def _room() -> list[Finding]:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    enough = free >= LEAST_DISK
    findings = [
        Finding("free disk", "ok", f"{free:.0f} GiB here")
        if enough
        else Finding(
            "free disk", "optional", f"{free:.1f} GiB here", "checkpoints may not fit", "set run_dir to a larger disk"
        )
    ]
    if not SHARED_MEMORY.is_dir():
        return findings
    size = shutil.disk_usage(SHARED_MEMORY).total / 2**20
    if size >= LEAST_SHARED_MEMORY:
        return [*findings, Finding("/dev/shm", "ok", f"{size / 1024:.1f} GiB")]
    cost = "several processes on one host may die with a bus error"
    return [*findings, Finding("/dev/shm", "optional", f"{size:.0f} MiB", cost, "docker run --shm-size=8g")]


def _on_cuda() -> bool:
    """Return whether a run started here would compute on CUDA."""
    import torch

    return torch.cuda.is_available() and os.environ.get("DS_ACCELERATOR", "cuda") == "cuda"


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
