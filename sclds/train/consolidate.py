"""The whole weights of a checkpoint in fp32, whatever ZeRO stage and number of processes wrote it."""

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from sclds.config.errors import CheckpointError
from sclds.run.checkpoints import STATE_FILE
from sclds.run.manifest import file_problems, manifest_of
from sclds.train.saved_state import SavedState


def consolidated_weights(folder: str | Path) -> dict[str, Tensor]:
    """Return every parameter of a checkpoint folder (`step-…`) by name, whole and in fp32 on the CPU.

    Raises:
        CheckpointError: If the folder is no complete checkpoint, its files are not those that were written, or they
            name code that no run writes.
    """
    return dict(iterate_weights(folder))


def iterate_weights(folder: str | Path) -> Iterator[tuple[str, Tensor]]:
    """Give name and value of one parameter after the other; memory holds one of them, whatever the checkpoint's size.

    Raises:
        CheckpointError: See `consolidated_weights`; before the first parameter.
    """
    folder = Path(folder)
    if not (folder / STATE_FILE).is_file():
        raise CheckpointError(f"{folder} is not a complete checkpoint: it has no {STATE_FILE}; name a folder `step-…`")
    _refuse_damage(folder)
    saved = SavedState(folder)
    for name, shape in saved.shapes.items():
        yield name, saved.read(name).view(shape)


def _refuse_damage(folder: Path) -> None:
    """Compare a checkpoint with its manifest; one of a version that wrote none is taken as it is."""
    try:
        listed = manifest_of(folder) or {}
    except ValueError as fault:
        raise CheckpointError(f"{folder}: {fault}; take an older checkpoint") from fault
    if problems := file_problems(folder, listed, listed):
        raise CheckpointError(f"{folder} is damaged: {'; '.join(problems[:3])}; take an older checkpoint")
