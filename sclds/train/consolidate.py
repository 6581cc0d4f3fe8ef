"""The whole weights of a checkpoint in fp32, whatever ZeRO stage and number of processes wrote it."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from torch import Tensor

from sclds.config.errors import CheckpointError
from sclds.run.checkpoints import STATE_FILE, Checkpoint, read_checkpoint
from sclds.run.manifest import file_problems
from sclds.train.saved_state import SavedState


class SavedWeights(Mapping[str, Tensor]):
    """Every weight of a checkpoint folder (`step-…`) by name, put together when it is asked for.

    Memory holds only what the caller keeps, whatever the checkpoint's size.

    Args:
        folder: Of the checkpoint.

    Raises:
        CheckpointError: If the folder is no complete checkpoint, its files are not those that were written, or they
            name code that no run writes.
    """

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        checkpoint = read_checkpoint(folder)
        if checkpoint is None:
            raise CheckpointError(
                f"{folder} is not a complete checkpoint: its {STATE_FILE} is missing or cannot be read; name a folder "
                f"`step-…`"
            )
        _refuse_damage(checkpoint)
        self._saved = SavedState(folder, checkpoint.layout)
        self._names = list(self._saved.shapes)

    def only(self, names: Iterable[str]) -> "SavedWeights":
        """Return these weights without those of other names."""
        chosen = copy.copy(self)
        chosen._names = list(names)
        return chosen

    def __getitem__(self, name: str) -> Tensor:
        return self._saved.read(name).view(self._saved.shapes[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names


def consolidated_weights(folder: str | Path) -> dict[str, Tensor]:
    """Return every weight of a checkpoint folder (`step-…`) by name, whole and in fp32 on the CPU.

    Raises:
        CheckpointError: See `SavedWeights`.
    """
    return dict(SavedWeights(folder))


def _refuse_damage(checkpoint: Checkpoint) -> None:
    """Compare a checkpoint with its manifest; one of a version that wrote none is taken as it is."""
    folder = checkpoint.folder
    try:
        listed = checkpoint.files() or {}
    except ValueError as fault:
        raise CheckpointError(f"{folder}: {fault}; take an older checkpoint") from fault
    if problems := file_problems(folder, listed, listed):
        raise CheckpointError(f"{folder} is damaged: {'; '.join(problems[:3])}; take an older checkpoint")
