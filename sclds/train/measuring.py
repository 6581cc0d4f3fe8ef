"""Processes that measure, and write no run: they end with their launcher, and wait for one another within limits."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Literal

from sclds.config.schema import LimitsConfig
from sclds.train.distributed import ProcessGroup, launched_rank, launched_world_size
from sclds.train.guards import COLLECTIVES_LATER
from sclds.train.launcher import LauncherWatch
from sclds.train.watchdog import Watchdog

Setting = Literal["start", "step", "evaluation"]
Limit = Callable[[str, Setting], AbstractContextManager[None]]
"""Given the name of a part and the setting that holds its limit, holds that part to it; see `Watchdog.phase`."""


@contextmanager
def measuring(limits: LimitsConfig) -> Iterator[tuple[ProcessGroup, Limit]]:
    """Meet the other processes that the launcher started, for as long as the block takes.

    Args:
        limits: Of the start, and of the parts that the block holds to them; nothing limits a process alone, for which
            nobody waits.

    Yields:
        All processes, and what holds a part of the block to its limit.
    """
    with ExitStack() as stack:
        stack.enter_context(LauncherWatch(ends="this process ends"))
        watchdog = Watchdog(launched_rank(), launched_world_size())

        def limit(name: str, setting: Setting) -> AbstractContextManager[None]:
            return watchdog.phase(name, f"limits.{setting}", getattr(limits, setting))

        if launched_world_size() == 1:
            group = ProcessGroup()
            stack.callback(group.close)
        else:
            stack.enter_context(watchdog)
            with limit("the start", "start"):
                group = ProcessGroup(limits.start + COLLECTIVES_LATER)
                stack.callback(group.close)
                watchdog.meet(group.store())
                group.wait_at_most(max(limits.start, limits.step, limits.evaluation) + COLLECTIVES_LATER)
        yield group, limit
