"""What stands around a run: limits on every wait, one writer per folder, and an end together with the launcher."""

from contextlib import AbstractContextManager, ExitStack
from functools import partial
from types import TracebackType
from typing import Literal

from sclds.config import Config
from sclds.config.errors import SharedError, UserError
from sclds.run.events import Events
from sclds.run.folder import RunFolder
from sclds.run.lease import Lease
from sclds.train.corruption import CorruptionError
from sclds.train.distributed import ProcessGroup, launched_rank, launched_world_size, lost_peer
from sclds.train.flight_recorder import write_collectives
from sclds.train.launcher import LauncherWatch
from sclds.train.progress import Reporter
from sclds.train.watchdog import Watchdog

COLLECTIVES_LATER = 60.0
"""Seconds by which a collective waits longer than the limits, so that the watchdog, which knows more, speaks first."""


class Guards:
    """Threads that end a run which nobody should wait for; entered before the processes meet.

    Args:
        config: The validated configuration.
        folder: Where the run writes.
        reporter: What a person sees.
    """

    def __init__(self, config: Config, folder: RunFolder, reporter: Reporter):
        self._limits, self._say = config.limits, reporter.say
        rank = launched_rank()
        self.events = Events(folder.events, rank)
        record = partial(write_collectives, rank)
        self._watchdog = Watchdog(rank, launched_world_size(), record=record, events=self.events)
        self._lease = Lease(folder.root, reporter.say, self.events)
        self._stack = ExitStack()

    @property
    def patience_of_start(self) -> float:
        """Seconds for which a collective may wait until the run is built and loaded."""
        return self._limits.start + COLLECTIVES_LATER

    @property
    def patience(self) -> float:
        """Seconds for which a collective may wait from then on."""
        return max(self._limits.step, self._limits.save, self._limits.evaluation) + COLLECTIVES_LATER

    def __enter__(self) -> "Guards":
        self._stack.enter_context(self._watchdog)
        self._stack.enter_context(LauncherWatch(self.events, self._limits.step + self._limits.save))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        shared = isinstance(fault, SharedError | CorruptionError)
        if isinstance(fault, Exception) and not (shared and launched_rank()):
            self._note_failure(fault)
        self._stack.close()
        if self.events.unwritten is not None:
            self._say(f"{self.events.unwritten}: what happened to this run is not written down there")

    def limit(self, name: str, setting: Literal["start", "step", "save", "evaluation"]) -> AbstractContextManager[None]:
        """Hold a part of the run to its limit; see `Watchdog.phase`."""
        return self._watchdog.phase(name, f"limits.{setting}", getattr(self._limits, setting))

    def meet(self, group: ProcessGroup) -> None:
        """Take the run folder, and give signs of life, once the processes have met.

        Raises:
            SharedError: On every rank, if another job writes into the folder.
        """
        self._watchdog.meet(group.store())
        refusal = None
        if group.rank == 0:
            self._stack.callback(self._lease.release)
            try:
                self._lease.acquire()
            except UserError as fault:
                refusal = str(fault)
        refusal = next(filter(None, group.gather_objects(refusal)), None)
        if refusal is not None:
            raise SharedError(refusal)

    def _note_failure(self, fault: Exception) -> None:
        """Write down what ended this process; one that another left alone says just that, wherever it waited."""
        lost = isinstance(fault, RuntimeError) and lost_peer(fault)
        cause = "another process of this run is gone" if lost else str(fault) or type(fault).__name__
        kind = "lost_peer" if lost else type(fault).__name__
        self.events.write("failure", cause, type=kind, user=isinstance(fault, UserError))

    def fault(self) -> UserError | None:
        """Return why the run cannot go on, if another job took its folder over."""
        lost = self._lease.lost
        return None if lost is None else UserError(f"The run folder was taken over by {lost}, which now writes into it")
