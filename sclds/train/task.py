"""What a fine-tuning does before its first step."""

from sclds.config import Config
from sclds.config.errors import SharedError, UserError
from sclds.tasks.annotations import write_classes
from sclds.train.distributed import ProcessGroup


def prepare_task(config: Config, group: ProcessGroup) -> None:
    """Count the classes of the task, once, into the run folder.

    Raises:
        SharedError: On every rank, if the annotations cannot be used.
    """
    told = None
    if group.rank == 0:
        try:
            write_classes(config)
        except UserError as fault:
            told = str(fault)
    if told := next(filter(None, group.gather_objects(told)), None):
        raise SharedError(told)
