"""Downstream tasks by name: each is a head, a batch recipe and a metric, in a module of its own.

A new one is its module here, its row below, and its name in `sclds.config.TaskConfig`.
"""

from collections.abc import Mapping
from types import MappingProxyType

from sclds.config import Config
from sclds.tasks.definition import Task
from sclds.tasks.nlvr2 import NLVR2
from sclds.tasks.retrieval import RETRIEVAL
from sclds.tasks.snli_ve import SNLI_VE
from sclds.tasks.vqa import VQA

__all__ = ["TASKS", "Task", "task_of"]

TASKS: Mapping[str, Task] = MappingProxyType({task.name: task for task in (VQA, SNLI_VE, NLVR2, RETRIEVAL)})
"""By `task.name`."""


def task_of(config: Config) -> Task:
    """Return the task that a run is fine-tuned for; the run has one."""
    assert config.task is not None
    return TASKS[config.task.name]
