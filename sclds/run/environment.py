"""The shape of `environment.json`: where, with what and for how long a run ran, an entry for each start."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True, use_attribute_docstrings=True)


class Host(_Entry):
    """A machine that took part."""

    name: str
    processes: int
    cpu: str
    cores: int
    gpu: str
    """Empty on a CPU."""
    gpus: int
    """That the run used there."""


class Git(_Entry):
    """The clone that the code came from."""

    commit: str
    dirty: bool


class Start(_Entry):
    """One start of a run."""

    started: str
    """ISO 8601, UTC."""
    last_seen: str
    """When its figures were last brought up to date: at every checkpoint, and at its end."""
    ended: str | None
    """None while it runs, and for ever where it was killed."""
    outcome: str = ""
    """`finished`, `stopped` by a signal, or `failed: ` and why."""
    first_step: int
    """Steps done before."""
    last_step: int
    versions: dict[str, str]
    git: Git | None
    hosts: list[Host]
    world_size: int
    parameters: int
    peak_host_bytes: int
    """Largest of a process: most memory that it held so far."""
    peak_device_bytes: int
    """Largest of a process: most memory of its GPU that tensors took so far; 0 on a CPU."""
    peak_flops: float | None = None
    """Matmul FLOPs per second that all processes together were measured to reach, before the first step of a start on
    such machines."""


def read_starts(path: Path, problems: list[str] | None = None) -> list[Start]:
    """Return the entries of an `environment.json`; none where there is no file.

    Args:
        path: The file.
        problems: Is given a sentence for everything that is damaged and therefore left out.
    """
    told: list[str] = []
    starts: list[Start] = []
    found: Any
    try:
        found = json.loads(path.read_bytes()) if path.is_file() else []
    except (OSError, ValueError, RecursionError) as fault:
        found = []
        told.append(f"{path.name} is left out: it cannot be read ({' '.join(str(fault).split())})")
    if not isinstance(found, list):
        told.append(f"{path.name} is left out: it holds no list but a {type(found).__name__}")
        found = []
    for number, entry in enumerate(found, 1):
        try:
            starts.append(Start.model_validate(entry))
        except ValidationError as fault:
            where = ".".join(map(str, fault.errors()[0]["loc"]))
            told.append(f"{path.name}: start {number} is damaged and left out ({where})")
    if problems is not None:
        problems += told
    return starts
