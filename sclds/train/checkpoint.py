"""Checkpoints that are complete or absent: written beside, flushed, renamed; the newest complete one is found again."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sclds.config import Config
from sclds.config.errors import CheckpointError
from sclds.train.distributed import ProcessGroup

STATE_FILE = "state.json"
"""Written last; a folder without it is not a checkpoint."""
ENGINE_TAG = "engine"
"""DeepSpeed's own files lie in this folder of a checkpoint."""
UNIVERSAL_TAG = "universal"
"""The same in DeepSpeed's universal format, made when another number of processes goes on."""
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
    "data.hw_decoder_load",
    "data.nvdec",
    "data.prefetch",
    "data.prefetch_bytes",
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
        checkpoint = read_checkpoint(folder) if re.fullmatch(r"step-\d+", folder.name) else None
        if checkpoint is not None:
            found.append(checkpoint)
    return max(found, key=lambda checkpoint: checkpoint.step, default=None)


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the checkpoint that `folder` is, or nothing if it is none or not complete."""
    try:
        state = json.loads((folder / STATE_FILE).read_text())
        return Checkpoint(folder, int(state["step"]), int(state["world_size"]), state["config"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


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


def needs_conversion(checkpoint: Checkpoint, config: Config, world_size: int) -> bool:
    """Return whether the checkpoint's shards are those of another number of processes."""
    return config.engine.zero_stage > 0 and checkpoint.world_size != world_size


def convert_to_universal(checkpoint: Checkpoint) -> None:
    """Write the checkpoint's state in DeepSpeed's universal format, which any number of processes loads, beside it."""
    final = checkpoint.folder / UNIVERSAL_TAG
    if final.is_dir():
        return
    partial = final.with_suffix(".tmp")
    shutil.rmtree(partial, ignore_errors=True)
    converter = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
    folders = ["--input_folder", str(checkpoint.folder / ENGINE_TAG), "--output_folder", str(partial)]
    done = subprocess.run([*converter, *folders], capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise CheckpointError(
            f"{checkpoint.folder} cannot be converted for another number of processes ({' '.join(last)}); "
            f"start {checkpoint.world_size} processes"
        )
    partial.rename(final)


def load_checkpoint(engine: Any, checkpoint: Checkpoint, universal: bool) -> None:
    """Put a checkpoint's weights and optimiser state into the engine."""
    settings = [{k: v for k, v in group.items() if k != "params"} for group in engine.optimizer.param_groups]
    path, _ = engine.load_checkpoint(str(checkpoint.folder), tag=UNIVERSAL_TAG if universal else ENGINE_TAG)
    if path is None:
        raise CheckpointError(f"{checkpoint.folder} cannot be read; remove it, and the one before is taken")
    if universal:
        _mend_universal(engine.optimizer, settings)


def _mend_universal(optimizer: Any, settings: list[dict[str, Any]]) -> None:
    """Undo what DeepSpeed's universal load does to several parameter groups.

    It gives all groups the first one's settings, and all states one step counter, which each group would then advance.
    """
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)
    for state in optimizer.optimizer.state.values():
        if isinstance(state.get("step"), Tensor):
            state["step"] = state["step"].clone()


def resume_problems(checkpoint: Checkpoint, config: Config) -> list[str]:
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
    return [
        f"{key}={now.get(key, 'absent')} differs from {before.get(key, 'absent')}, with which {checkpoint.folder} was "
        f"written; {start_anew}"
        for key in differing
    ]


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
