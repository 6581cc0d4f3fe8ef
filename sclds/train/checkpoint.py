"""The engine's state into checkpoints that are complete or absent (written beside, flushed, renamed), and back."""

import contextlib
import hashlib
import io
import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from sclds.config import Config
from sclds.config.errors import CheckpointError
from sclds.config.reading import dump_config
from sclds.machine.packages import installed_version
from sclds.run.checkpoints import ENGINE_TAG, STATE_FILE, UNIVERSAL_TAG, Checkpoint, checkpoint_name, is_checkpoint_name
from sclds.run.files import flush, write_atomically
from sclds.run.manifest import FileRecord, file_problems, manifest_of, record_files, write_manifest
from sclds.train.distributed import ProcessGroup
from sclds.train.guard import refuse_broken_state

_SHARD = re.compile(r"(?:^|_)zero_pp_rank_(\d+)_")
"""In the names of DeepSpeed's files that each rank writes for itself."""


def save_checkpoint(
    engine: Any,
    checkpoints: Path,
    step: int,
    config: Config,
    group: ProcessGroup,
    keep: int,
    client_state: dict[str, Any] | None = None,
    best: int | None = None,
) -> Path:
    """Write the engine's whole state after `step` optimizer steps, then remove all but the newest `keep`.

    Each rank forces its own files onto the disk and hashes them; the manifest is written last.

    Args:
        engine: DeepSpeed's.
        checkpoints: Folder of all checkpoints of the run.
        step: Optimizer steps done.
        config: The run.
        group: All processes.
        keep: Checkpoints that stay.
        client_state: Plain values that `load_checkpoint` returns.
        best: Step whose checkpoint is never removed, and named in the file `best` beside it.

    Raises:
        CheckpointError: On every rank, if weights or optimizer are not finite, or any rank's files cannot be written;
            the checkpoint before stands.
    """
    refuse_broken_state(engine, group, step)
    final = checkpoints / checkpoint_name(step)
    partial = final.with_suffix(".tmp")
    with _machine_faults(partial, group):
        if group.rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
    try:
        engine.save_checkpoint(str(partial), tag=ENGINE_TAG, client_state=client_state or {}, save_latest=False)
    except (OSError, RuntimeError) as fault:
        if not _of_the_disk(fault):
            raise
        # other ranks wait in a barrier of DeepSpeed's, which they leave when this process ends
        raise _unwritable(partial, _told(fault, partial)) from fault
    files: dict[str, FileRecord] = {}
    with _machine_faults(partial, group):
        own = _files_of(partial, group.rank)
        for path in own:
            flush(path)
        files = record_files(partial, own)
    records = {name: record for of_rank in group.gather_objects(files) for name, record in of_rank.items()}
    with _machine_faults(partial, group):
        if group.rank == 0:
            _complete(partial, final, records, step, config, group.world_size)
            if best is not None:
                write_atomically(checkpoints / "best", checkpoint_name(best))
            _remove_old(checkpoints, keep, best)
    return final


def _complete(
    partial: Path, final: Path, records: dict[str, FileRecord], step: int, config: Config, world_size: int
) -> None:
    """Write state and manifest beside the engine's flushed files, and give the folder its name."""
    state = partial / STATE_FILE
    write_atomically(
        state, json.dumps({"step": step, "world_size": world_size, "config": config.model_dump(mode="json")})
    )
    facts = {
        "step": step,
        "samples": step * config.batch.global_size,
        "config_sha256": hashlib.sha256(dump_config(config).encode()).hexdigest(),
        "versions": {name: installed_version(name) or "unknown" for name in ("sclds", "torch", "deepspeed")},
    }
    write_manifest(partial, records | record_files(partial, [state]), facts)
    for folder in [path for path in partial.rglob("*") if path.is_dir()]:
        flush(folder)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    write_atomically(final.parent / "latest", final.name)  # flushes the names in this folder too


def _files_of(partial: Path, rank: int) -> list[Path]:
    """Return the engine's files that a rank wrote; those of no rank are rank 0's."""
    found = []
    for path in sorted(path for path in partial.rglob("*") if path.is_file()):
        shard = _SHARD.search(path.name)
        if rank == (int(shard.group(1)) if shard else 0):
            found.append(path)
    return found


@contextlib.contextmanager
def _machine_faults(partial: Path, group: ProcessGroup) -> Iterator[None]:
    """Raise a full or broken disk of any rank on all of them, so that nobody waits for a rank that left."""
    told = None
    try:
        yield
    except OSError as fault:
        told = _told(fault, partial)
    faults = [fault for fault in group.gather_objects(told) if fault]
    if faults:
        raise _unwritable(partial, faults[0])


def _of_the_disk(fault: OSError | RuntimeError) -> bool:
    """Return whether a file could not be written: torch's writer says so with a RuntimeError."""
    return isinstance(fault, OSError) or "PytorchStreamWriter" in str(fault) or "file write failed" in str(fault)


def _told(fault: Exception, partial: Path) -> str:
    return f"{' '.join(str(fault).split())}; on {socket.gethostname()}, {_free_space(partial.parent)}"


def _unwritable(partial: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint {partial.with_suffix('')} cannot be written ({reason}); free space, or give another "
        f"run_dir on a disk that can be written; the checkpoint before stands"
    )


def _free_space(folder: Path) -> str:
    try:
        return f"where {shutil.disk_usage(folder).free / 2**20:,.0f} MiB are free"
    except OSError:
        return f"where {folder} cannot be read"


def needs_conversion(checkpoint: Checkpoint, config: Config, world_size: int) -> bool:
    """Return whether the checkpoint's shards are those of another number of processes."""
    return config.engine.zero_stage > 0 and checkpoint.world_size != world_size


def convert_to_universal(checkpoint: Checkpoint) -> None:
    """Write the checkpoint's state in DeepSpeed's universal format, which any number of processes loads, beside it.

    What an earlier conversion left is taken if its files are those that were written.
    """
    final = checkpoint.folder / UNIVERSAL_TAG
    if final.is_dir():
        if _is_sound(final):
            return
        shutil.rmtree(final)
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
    files = [path for path in sorted(partial.rglob("*")) if path.is_file()]
    for path in files:
        flush(path)
    write_manifest(partial, record_files(partial, files))
    partial.rename(final)
    flush(final.parent)


def _is_sound(folder: Path) -> bool:
    try:
        files = manifest_of(folder)
    except ValueError:
        return False
    return files is not None and not file_problems(folder, files, files)


def load_checkpoint(engine: Any, checkpoint: Checkpoint, universal: bool) -> dict[str, Any]:
    """Put a checkpoint's weights and optimizer state into the engine; return its client state.

    Raises:
        CheckpointError: It cannot be read, or its optimizer is another one.
    """
    settings = [{k: v for k, v in group.items() if k != "params"} for group in engine.optimizer.param_groups]
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # DeepSpeed prints names of its own
            path, saved = engine.load_checkpoint(str(checkpoint.folder), tag=UNIVERSAL_TAG if universal else ENGINE_TAG)
    except (KeyError, ValueError, AssertionError) as fault:
        raise CheckpointError(
            f"{checkpoint.folder} has another optimizer state than this version writes ({fault!r}); start over in "
            f"another run_dir with model.init_from set to what `sclds convert run` makes of it"
        ) from fault
    if path is None:
        raise CheckpointError(f"{checkpoint.folder} cannot be read; remove it, and the one before is taken")
    if universal:
        _mend_universal(engine.optimizer, settings)
    return saved or {}


def _mend_universal(optimizer: Any, settings: list[dict[str, Any]]) -> None:
    """Undo what DeepSpeed's universal load does to several parameter groups.

    It gives all groups the first one's settings, and all states one step counter, which each group would then advance.
    """
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)
    for state in optimizer.optimizer.state.values():
        if isinstance(state.get("step"), Tensor):
            state["step"] = state["step"].clone()


def _remove_old(checkpoints: Path, keep: int, best: int | None) -> None:
    """Remove all complete checkpoints but the newest `keep` and the best one, and every half-written one."""
    complete = sorted(p for p in checkpoints.iterdir() if is_checkpoint_name(p.name))
    old = [p for p in complete[:-keep] if best is None or p.name != checkpoint_name(best)]
    partial = [p for p in checkpoints.glob("step-*.tmp") if p.is_dir()]
    for folder in [*old, *partial]:
        shutil.rmtree(folder)
