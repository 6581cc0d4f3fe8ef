"""The next step's micro-batches, and what ranks tell one another of it while the step before runs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sclds.batch import Batch
from sclds.config.errors import SharedError, UserError
from sclds.losses.communicator import Ints
from sclds.losses.objectives import StepSizes
from sclds.machine.phase_clock import phase
from sclds.train.distributed import ProcessGroup


@dataclass
class NextStep:
    """What a step begins with, agreed on by all ranks."""

    micro_batches: list[Batch]
    sizes: StepSizes


class Ahead:
    """Fetches a step's micro-batches while the step before runs, and exchanges all that ranks have to know before it.

    One message from host to host a step carries the sizes of micro-batches, whether a rank was asked to stop, and
    whether it cannot go on. It is on its way while the device computes, so that no step begins with a wait for it.

    Args:
        batches: This rank's micro-batches of every step.
        accumulation: Micro-batches of a step.
        most_frames: `model.vision.max_frames`, by which all ranks' messages are of one length.
        group: All processes.
        asked_to_stop: Whether this rank has been, now.
        fault: What keeps this rank from going on, apart from its data.
    """

    def __init__(
        self,
        batches: Iterator[list[Batch]],
        accumulation: int,
        most_frames: int,
        group: ProcessGroup,
        asked_to_stop: Callable[[], bool],
        fault: Callable[[], UserError | None],
    ):
        self._batches = batches
        self._accumulation = accumulation
        self._nothing = [0] * (accumulation * (StepSizes.FIXED + most_frames))
        self._group = group
        self._asked_to_stop = asked_to_stop
        self._fault_now = fault
        self._micro_batches: list[Batch] = []
        self._fault: UserError | None = None
        self._told: Callable[[], Ints] | None = None

    def fetch(self) -> None:
        """Fetch the next step's micro-batches and start the exchange; on all ranks alike."""
        self._micro_batches, self._fault = [], self._fault_now()
        try:
            with phase("data"):
                self._micro_batches = next(self._batches)
        except UserError as fault:
            self._fault = fault
        sizes = StepSizes.numbers(self._micro_batches) if self._micro_batches else self._nothing
        self._told = self._group.start_gather_counts([self._asked_to_stop(), self._fault is not None, *sizes])

    def take(self) -> NextStep | None:
        """Return what was fetched, or nothing if any rank had been asked to stop by then.

        Raises:
            UserError: On every rank, if any rank cannot go on.
        """
        if self._told is None:
            self.fetch()
            assert self._told is not None
        with phase("exchange"):
            told = self._told()
        self._told = None
        if told[:, 1].any():
            raise self._fault or SharedError("Another process cannot go on; its message says why")
        if told[:, 0].any():
            return None
        return NextStep(self._micro_batches, StepSizes.of(told[:, 2:], self._accumulation))
