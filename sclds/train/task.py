"""What a run's weights come from besides its settings: classes that a fine-tuning counts once, and training shards."""

from collections.abc import Callable
from contextlib import suppress

from sclds.config import Config
from sclds.config.errors import SharedError, UserError
from sclds.run.checkpoints import Checkpoint
from sclds.tasks.annotations import ANSWERS, classes_sha256, write_classes
from sclds.train.agreement import shards_digest
from sclds.train.distributed import ProcessGroup

SHARDS = "shards"
"""Key of the digest of the training shards' names and sizes."""


def prepare_data(
    config: Config, checkpoint: Checkpoint | None, group: ProcessGroup, say: Callable[[str], None]
) -> None:
    """Count the classes of a task that begins, into the run folder; of a run that goes on, say if its data are others.

    Args:
        config: The run.
        checkpoint: That the run goes on from; None at its beginning.
        group: All processes.
        say: Tells a person a sentence, on rank 0.

    Raises:
        SharedError: On every rank, if the annotations cannot be used.
    """
    if checkpoint is not None:
        now, before = trained_on(config).get(SHARDS), checkpoint.trained_on.get(SHARDS)
        if group.rank == 0 and now and before and now != before:
            say(
                f"The training shards differ in names, sizes or number from those that {checkpoint.folder.name} was "
                f"trained on: from here on the run reads the new ones, in an order of their own, so that in this epoch "
                f"samples may come twice or not at all"
            )
    elif config.task is not None:
        told = None
        if group.rank == 0:
            try:
                write_classes(config)
            except UserError as fault:
                told = str(fault)
        if told := next(filter(None, group.gather_objects(told)), None):
            raise SharedError(told)


def trained_on(config: Config) -> dict[str, str]:
    """Return digests of the training shards and of the classes; of none that cannot be read, as is told elsewhere."""
    found = {}
    with suppress(UserError, OSError):
        found[SHARDS] = shards_digest(config.data.train)
    with suppress(OSError):
        found |= {ANSWERS: digest} if config.task is not None and (digest := classes_sha256(config)) else {}
    return found
