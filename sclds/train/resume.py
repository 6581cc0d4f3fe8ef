"""Which checkpoint a run goes on from: the newest whose files are what was written, agreed on by all ranks."""

import shutil
from collections.abc import Callable
from pathlib import Path

from sclds.config.errors import CheckpointError, SharedCheckpointError
from sclds.run.checkpoints import (
    ENGINE_TAG,
    Checkpoint,
    checkpoint_name,
    complete_checkpoints,
    incomplete_checkpoints,
    is_damaged,
)
from sclds.run.manifest import file_problems, share_of
from sclds.train.distributed import ProcessGroup
from sclds.train.saved_state import refuse_foreign_code


def sound_checkpoint(checkpoints: Path, group: ProcessGroup, say: Callable[[str], None]) -> Checkpoint | None:
    """Return the newest checkpoint whose files are those that were written; None if the run has none at all.

    Each rank compares its share of the files. A checkpoint that is damaged on any of them is passed over by all, and
    `say` gets a sentence on it.

    Args:
        checkpoints: The run's folder of checkpoints; every rank has to see the same one.
        group: All processes.
        say: Prints a sentence, on rank 0.

    Raises:
        SharedCheckpointError: Every checkpoint is damaged, or ranks see different ones.
    """
    found = complete_checkpoints(checkpoints)
    _agree(checkpoints, [checkpoint.step for checkpoint in found], group)
    incomplete = incomplete_checkpoints(checkpoints)
    passed_over = [f"{folder} is passed over: {reason}" for folder, reason in incomplete]
    for checkpoint in found:
        problems = problems_on_any_rank(checkpoint, group)
        if not problems:
            newer = [line for line in passed_over if Path(line.split(" is ")[0]).name > checkpoint.folder.name]
            for line in newer:
                say(f"{line}; {checkpoint.folder.name} is taken instead")
            return checkpoint
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        passed_over.append(f"{checkpoint.folder} is passed over: {'; '.join(problems[:3])}{more}")
    if not passed_over:
        return None
    # half-written ones alone: the run was killed in its first save
    if not found and not any(is_damaged(folder) for folder, _ in incomplete):
        for line in passed_over:
            say(f"{line}; the run starts at step 0")
        return None
    raise SharedCheckpointError(
        f"no checkpoint of this run can be used:\n  {chr(10).join(passed_over)}\n"
        f"restore one from a copy, or start over with another run_dir"
    )


def problems_on_any_rank(checkpoint: Checkpoint, group: ProcessGroup) -> list[str]:
    """Return what is wrong with a checkpoint's files, each rank looking at its share."""
    told = group.gather_objects(checkpoint_problems(checkpoint, group.rank, group.world_size))
    return [problem for of_rank in told for problem in of_rank]


def checkpoint_before(checkpoints: Path, step: int, every: int, group: ProcessGroup) -> Checkpoint | None:
    """Return the newest sound checkpoint of at most `step` steps, of those written every `every` steps; None if none.

    One that a stop or a good figure left in between does not count, so that where a run goes back to does not depend
    on when it was stopped.
    """
    for checkpoint in complete_checkpoints(checkpoints):
        fits = checkpoint.step <= step and checkpoint.step % every == 0
        if fits and not problems_on_any_rank(checkpoint, group):
            return checkpoint
    return None


def remove_after(checkpoints: Path, step: int) -> None:
    """Remove the complete checkpoints of more than `step` steps, from which nothing shall go on."""
    for checkpoint in complete_checkpoints(checkpoints):
        if checkpoint.step > step:
            shutil.rmtree(checkpoint.folder)


def checkpoint_problems(checkpoint: Checkpoint, rank: int = 0, world_size: int = 1) -> list[str]:
    """Return what is wrong with a rank's share of a checkpoint's files; nothing is unpickled.

    One of a version that wrote no manifest is only looked through for code.
    """
    problems = []
    if rank == 0 and checkpoint.folder.name != checkpoint_name(checkpoint.step):
        problems.append(f"it says that it is of step {checkpoint.step}")
    try:
        files = checkpoint.files()
    except ValueError as fault:
        return [str(fault)] if rank == 0 else []
    engine = checkpoint.folder / ENGINE_TAG
    pickles = {path.relative_to(checkpoint.folder).as_posix() for path in engine.rglob("*.pt")}
    if files is not None:
        problems += file_problems(checkpoint.folder, files, share_of(files, rank, world_size))
        if rank == 0:
            problems += [f"{name} is not in its manifest" for name in sorted(pickles - files.keys())]
    if problems:
        return problems
    for name in share_of(pickles, rank, world_size):
        try:
            refuse_foreign_code(checkpoint.folder / name)
        except CheckpointError as fault:
            problems.append(str(fault))
    return problems


def _agree(checkpoints: Path, steps: list[int], group: ProcessGroup) -> None:
    """Refuse ranks that see different checkpoints, each of which would go on from another step."""
    seen = group.gather_objects(steps)
    for rank, of_rank in enumerate(seen):
        if of_rank != seen[0]:
            raise SharedCheckpointError(
                f"rank {rank} sees checkpoints of steps {of_rank or 'none'} in {checkpoints}, rank 0 those of "
                f"{seen[0] or 'none'}; run_dir has to be one folder that all hosts share"
            )
