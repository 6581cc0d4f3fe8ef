"""The engine's state into checkpoints that are complete or absent (written beside, flushed, renamed), and back."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from torch import Tensor

from sclds.config import Config
from sclds.config.errors import CheckpointError
from sclds.run.checkpoints import ENGINE_TAG, STATE_FILE, UNIVERSAL_TAG, Checkpoint, checkpoint_name, is_checkpoint_name
from sclds.run.files import flush, write_atomically
from sclds.train.distributed import ProcessGroup


def save_checkpoint(engine: Any, checkpoints: Path, step: int, config: Config, group: ProcessGroup, keep: int) -> Path:
    """Write the engine's whole state after `step` optimizer steps, then remove all but the newest `keep`."""
    final = checkpoints / checkpoint_name(step)
    partial = final.with_suffix(".tmp")
    if group.rank == 0:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    group.barrier()
    engine.save_checkpoint(str(partial), tag=ENGINE_TAG, save_latest=False)
    group.barrier()
    if group.rank == 0:
        state = {"step": step, "world_size": group.world_size, "config": config.model_dump(mode="json")}
        (partial / STATE_FILE).write_text(json.dumps(state), encoding="utf-8")
        _flush_all(partial)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        write_atomically(checkpoints / "latest", final.name)  # flushes the names in this folder too
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
    done = subprocess.run([*converter, *folders], capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise CheckpointError(
            f"{checkpoint.folder} cannot be converted for another number of processes ({' '.join(last)}); "
            f"start {checkpoint.world_size} processes"
        )
    partial.rename(final)


def load_checkpoint(engine: Any, checkpoint: Checkpoint, universal: bool) -> None:
    """Put a checkpoint's weights and optimizer state into the engine."""
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


def _flush_all(folder: Path) -> None:
    """Force every file of a folder, and its names, onto the disk."""
    for path in [*folder.rglob("*"), folder]:
        flush(path)


def _remove_old(checkpoints: Path, keep: int) -> None:
    """Remove all complete checkpoints but the newest `keep`, and every half-written one."""
    complete = sorted(p for p in checkpoints.iterdir() if is_checkpoint_name(p.name))
    partial = [p for p in checkpoints.glob("step-*.tmp") if p.is_dir()]
    for folder in [*complete[:-keep], *partial]:
        shutil.rmtree(folder)
