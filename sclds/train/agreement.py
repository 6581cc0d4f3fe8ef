"""Whether all processes of a run are the same program with the same settings, before they work together."""

import hashlib
import platform
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

import sclds
from sclds.config import Config, DatasetConfig
from sclds.config.errors import SharedError
from sclds.config.reading import config_sha256
from sclds.data.storage.files import is_url
from sclds.data.storage.shards import shard_files
from sclds.losses.communicator import gather_records
from sclds.machine.description import code_digest, git_state
from sclds.machine.implementations import choose
from sclds.machine.packages import installed_version
from sclds.train.distributed import ProcessGroup
from sclds.train.place import this_place

PACKAGES = (
    *("sclds", "torch", "deepspeed", "triton", "numpy", "nvidia-nccl-cu12", "nvidia-nccl-cu13"),
    *("flash-attn", "flash-attn-3", "flash-attn-4", "apex", "liger-kernel"),
    *("nvidia-dali-cuda120", "nvidia-dali-cuda130", "av", "pillow"),
)
"""Whose versions decide what a process reads or computes, or whether it understands the others."""


def own_record(config: Config) -> dict[str, Any]:
    """Return what must be the same on all processes, and the name of this machine."""
    record = {"host": socket.gethostname(), "Python": platform.python_version()}
    for package in PACKAGES:
        record[package] = installed_version(package) or "absent"
    record["CUDA of torch"] = torch.version.cuda or "absent"
    # where a library cannot be loaded, or GPUs differ, `auto` takes another backend, whose dropout draws differently
    record["attention"] = str(choose(config).attention)
    record["the code of sclds"] = code_digest(Path(sclds.__file__).parent)
    record["the configuration"] = config_sha256(config)[:12]
    if this_place().local_rank == 0:  # what all processes of a host read alike is read once there
        record["commit"] = (git_state() or {}).get("commit", "absent")[:12]
        record["the shards"] = shards_digest((*config.data.train, *config.data.heldout))
    return record


def shards_digest(datasets: Iterable[DatasetConfig]) -> str:
    """Return a short SHA-256 over names and sizes of all shards in the file system; one storage serves URLs to all."""
    digest = hashlib.sha256()
    for dataset in datasets:
        for file in shard_files(dataset):
            if not is_url(file.place):
                digest.update(f"{file.name.encode('utf-8', 'surrogateescape')!r} {file.size}\0".encode())
    return digest.hexdigest()[:12]


def differences(records: list[dict[str, Any]]) -> list[str]:
    """Return a line for every host and thing in which it is not as most processes are."""
    lines = []
    for key in dict.fromkeys(key for record in records for key in record):
        values = [record[key] for record in records if key in record]
        usual = max(values, key=values.count)
        for host in sorted({record["host"] for record in records} if key != "host" else ()):
            own = sorted({record[key] for record in records if record["host"] == host and key in record} - {usual})
            others = f"most have {usual}" if len(values) > 2 else f"{_first_with(key, usual, records)} has {usual}"
            lines += [f"{host} has {key} {value}, where {others}" for value in own]
    return lines


def _first_with(key: str, value: Any, records: list[dict[str, Any]]) -> str:
    return next(str(record["host"]) for record in records if record.get(key) == value)


def refuse_strangers(config: Config, group: ProcessGroup) -> None:
    """Compare all processes.

    Raises:
        SharedError: On every rank, if any is another program or has other settings.
    """
    told = differences(gather_records(own_record(config), group, group.device))
    if told:
        attends = any(" has attention " in line for line in told)
        raise SharedError(
            f"the processes of this run are not alike: {'; '.join(told)}. Give all machines the same environment and "
            f"the same files{', or set engine.attention to what all of them have' if attends else ''}"
        )
