"""Checkpoints that are complete or absent: written beside, flushed, renamed; the newest complete one is found again."""

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sclds.config import Config
from sclds.errors import CheckpointError
from sclds.train.distributed import ProcessGroup

STATE_FILE = "state.json"
"""Written last; a folder without it is not a checkpoint."""
ENGINE_TAG = "engine"
"""DeepSpeed's own files lie in this folder of a checkpoint."""
MAY_CHANGE = (
    "name",
    "run_dir",
    "log",
    "checkpoint",
    "evaluation",
    "engine.kernels",
    "engine.attention",
    "engine.activation_checkpointing",
    "data.heldout",
    "data.device",
    "data.decode_threads",
    "data.prefetch",
    "data.max_bad_share",
    "batch.max_micro_size",
    "model.init_from",
)
"""Settings that a resumed run may have other than the checkpoint: they do not change what a step computes."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: its folder, the optimiser steps done, and what the run was."""

    folder: Path
    step: int
    world_size: int
    config: dict[str, Any]


def newest_checkpoint(checkpoints: Path) -> Checkpoint | None:
    """Return the newest complete checkpoint of a run's folder; half-written ones are ignored."""
    if not checkpoints.is_dir():
        return None
    found = []
    for folder in checkpoints.iterdir():
        if re.fullmatch(r"step-\d+", folder.name) and (folder / STATE_FILE).is_file():
            try:
                state = json.loads((folder / STATE_FILE).read_text())
                found.append(Checkpoint(folder, int(state["step"]), int(state["world_size"]), state["config"]))
            except (ValueError, KeyError, TypeError):
                continue
    return max(found, key=lambda checkpoint: checkpoint.step, default=None)


def save_checkpoint(engine: Any, checkpoints: Path, step: int, config: Config, group: ProcessGroup, keep: int) -> Path:
    """Write the engine's whole state after `step` optimiser steps, then remove all but the newest `keep`."""
    final = checkpoints / f"step-{step:07d}"
    partial = final.with_suffix(".tmp")
    if group.rank == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    group.barrier()
    engine.save_checkpoint(str(partial), tag=ENGINE_TAG, save_latest=False)
    group.barrier()
    if group.rank == 0:
        state = {"step": step, "world_size": group.world_size, "config": config.model_dump(mode="json")}
        (partial / STATE_FILE).write_text(json.dumps(state))
        _flush(partial)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        _point(checkpoints / "latest", final.name)
        _remove_old(checkpoints, keep)
    group.barrier()
    return final


def load_checkpoint(engine: Any, checkpoint: Checkpoint) -> None:
    """Put a checkpoint's weights and optimiser state into the engine."""
    path, _ = engine.load_checkpoint(str(checkpoint.folder), tag=ENGINE_TAG)
    if path is None:
        raise CheckpointError(f"{checkpoint.folder} cannot be read; remove it, and the one before is taken")


def resume_problems(checkpoint: Checkpoint, config: Config, world_size: int) -> list[str]:
    """Return a sentence for everything in which the run differs from the checkpoint that it would resume."""
    before, now = _flat(checkpoint.config), _flat(config.model_dump(mode="json"))
    missing = object()
    differing = sorted(
        key
        for key in before.keys() | now.keys()
        if before.get(key, missing) != now.get(key, missing)
        and not any(key == free or key.startswith(free + ".") for free in MAY_CHANGE)
    )
    start_anew = f"set it back, or start anew with another run_dir (or after removing {checkpoint.folder.parent})"
    problems = [
        f"{key}={now.get(key, 'absent')} differs from {before.get(key, 'absent')}, with which {checkpoint.folder} was "
        f"written; {start_anew}"
        for key in differing
    ]
    if checkpoint.world_size != world_size:
        problems.append(
            f"{checkpoint.folder} was written by {checkpoint.world_size} processes and this start has {world_size}; "
            f"start {checkpoint.world_size}, or start anew with another run_dir"
        )
    return problems


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested dicts and lists under dotted keys."""
    if not isinstance(tree, dict | list) or not tree:
        return {prefix: tree}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    leaves: dict[str, Any] = {}
    for key, value in items:
        leaves |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return leaves


def _flush(folder: Path) -> None:
    """Force every file of a folder, and its names, onto the disk."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _point(pointer: Path, name: str) -> None:
    """Write `name` into the pointer file, at once."""
    beside = pointer.with_suffix(".tmp")
    beside.write_text(name)
    beside.replace(pointer)


def _remove_old(checkpoints: Path, keep: int) -> None:
    """Remove all complete checkpoints but the newest `keep`, and every half-written one."""
    complete = sorted(p for p in checkpoints.iterdir() if re.fullmatch(r"step-\d+", p.name))
    partial = [p for p in checkpoints.glob("step-*.tmp") if p.is_dir()]
    for folder in [*complete[:-keep], *partial]:
        shutil.rmtree(folder)
