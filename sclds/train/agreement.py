"""Whether all processes of a run are the same program with the same settings, before they work together."""

import hashlib
import platform
import socket
from pathlib import Path
from typing import Any

import sclds
from sclds.config import Config
from sclds.config.errors import SharedError
from sclds.config.reading import config_sha256
from sclds.losses.communicator import gather_records
from sclds.machine.packages import installed_version
from sclds.train.distributed import ProcessGroup

PACKAGES = ("sclds", "torch", "deepspeed", "triton", "nvidia-nccl-cu12", "nvidia-nccl-cu13")
"""Whose versions decide what a process computes, or whether it understands the others."""


def own_record(config: Config) -> dict[str, Any]:
    """Return what must be the same on all processes, and the name of this machine."""
    record = {"host": socket.gethostname(), "Python": platform.python_version()}
    for package in PACKAGES:
        record[package] = installed_version(package) or "absent"
    record["the code of sclds"] = code_digest(Path(sclds.__file__).parent)
    return record | {"the configuration": config_sha256(config)[:12]}


def code_digest(package: Path) -> str:
    """Return a short SHA-256 over a package's Python files, which change more often than its version."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def differences(records: list[dict[str, Any]]) -> list[str]:
    """Return a line for every host and thing in which it is not as most processes are."""
    lines = []
    for key in records[0]:
        values = [record[key] for record in records]
        usual = max(values, key=values.count)
        for host in sorted({record["host"] for record in records} if key != "host" else ()):
            own = sorted({record[key] for record in records if record["host"] == host} - {usual})
            lines += [f"{host} has {key} {value}, where most have {usual}" for value in own]
    return lines


def refuse_strangers(config: Config, group: ProcessGroup) -> None:
    """Compare all processes.

    Raises:
        SharedError: On every rank, if any is another program or has other settings.
    """
    told = differences(gather_records(own_record(config), group, group.device))
    if told:
        raise SharedError(
            f"the processes of this run are not alike: {'; '.join(told)}. Give all machines the same environment and "
            f"the same files"
        )
