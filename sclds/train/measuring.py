"""Processes that measure, and write no run: they end with their launcher, and wait for one another within limits."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from sclds.config.schema import LimitsConfig
from sclds.train.distributed import ProcessGroup, launched_rank, launched_world_size
from sclds.train.guards import COLLECTIVES_LATER
from sclds.train.launcher import LauncherWatch
from sclds.train.watchdog import Watchdog


@contextmanager
def measuring(limits: LimitsConfig | None = None) -> Iterator[ProcessGroup]:
    """Meet the other processes that the launcher started, for as long as the block takes.

    Args:
        limits: Of the start and of the block, which is an evaluation; None where nobody knows how long it may take.

    Yields:
        All processes.
    """
    with ExitStack() as stack:
        stack.enter_context(LauncherWatch(ends="this process ends"))
        watchdog = Watchdog(launched_rank(), launched_world_size())
        if limits is None or launched_world_size() == 1:  # nobody waits for it
            group = ProcessGroup()
            stack.callback(group.close)
        else:
            stack.enter_context(watchdog)
            with watchdog.phase("the start", "limits.start", limits.start):
                group = ProcessGroup(limits.start + COLLECTIVES_LATER)
                stack.callback(group.close)
                watchdog.meet(group.store())
                group.wait_at_most(limits.evaluation + COLLECTIVES_LATER)
            stack.enter_context(watchdog.phase("evaluation", "limits.evaluation", limits.evaluation))
        yield group
