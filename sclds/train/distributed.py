"""The only module that touches process groups: start, the losses' communicator, and agreement between ranks."""

import functools
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import deepspeed
import torch
import torch.distributed as dist
from deepspeed import comm
from deepspeed.accelerator import get_accelerator
from deepspeed.comm.comm import comms_logger
from torch import Tensor

from sclds.config.errors import UserError
from sclds.losses.communicator import Ints
from sclds.machine.phase_clock import phase
from sclds.train.flight_recorder import keep_collectives
from sclds.train.meeting import meeting_place, meeting_problem
from sclds.train.messages import Messages, watch_collectives


def launched_rank() -> int:
    """Return the rank that the launcher gave this process; 0 without a launcher."""
    return int(os.environ.get("RANK", "0"))


def launched_world_size() -> int:
    """Return the number of processes that the launcher started; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


class ProcessGroup:
    """All processes of the run, as the losses' communicator and for decisions that every rank must take alike.

    Args:
        patience: Seconds for which a collective waits; torch's own when not given.
        collectives: Folder that takes the last collectives where some wait too long on a GPU; none keeps none.
    """

    def __init__(self, patience: float | None = None, collectives: Path | None = None) -> None:
        _without_launcher()
        _without_compiled_collectives()
        _with_devices_counted_once()
        accelerator = get_accelerator()
        local_rank = int(os.environ["LOCAL_RANK"])
        self.device = torch.device(accelerator.device_name(local_rank))
        if self.device.type != "cpu":
            accelerator.set_device(local_rank)
            if collectives is not None:
                keep_collectives(collectives)
        self._owns = not dist.is_initialized()
        limit = {} if patience is None else {"timeout": timedelta(seconds=patience)}
        try:
            deepspeed.init_distributed(dist_backend=accelerator.communication_backend_name(), verbose=False, **limit)
        except (dist.DistNetworkError, dist.DistStoreError) as fault:
            raise UserError(_unreachable(fault)) from fault
        # numbers that the host needs do not go through the device, which would make it wait for all that was queued
        self._hosts = None if self.device.type == "cpu" else dist.new_group(backend="gloo", **limit)  # type: ignore[arg-type]
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self.messages = _messages(self.device)

    def wait_at_most(self, seconds: float) -> None:
        """Have collectives, in all groups of processes that there are, wait so long from now on."""
        dist.barrier()
        get_accelerator().synchronize()  # those under way have the limit that they began with
        for group in list(dist.distributed_c10d._world.pg_map):
            dist.distributed_c10d._set_pg_timeout(timedelta(seconds=seconds), group)

    def store(self) -> Any:
        """Return a connection of its own to the store through which the processes met, for use by another thread."""
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        return dist.TCPStore(address, port, is_master=False, wait_for_workers=False)

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Return the tensors of all ranks, (W, ...), in rank order; every rank's must have the same shape."""
        return self.start_all_gather(tensor)()

    def start_all_gather(self, tensor: Tensor) -> Callable[[], Tensor]:
        """Start `all_gather` and return what waits for it: NCCL lets the current stream wait, gloo the host."""
        gathered = tensor.new_empty(self.world_size * tensor.numel())
        own = tensor.flatten()  # held with the work: its memory may not be given away before
        others = (self.world_size - 1) * own.numel() * own.element_size()
        work = self.messages.sent(
            "features", others, True, lambda: dist.all_gather_into_tensor(gathered, own, async_op=True)
        )

        def wait(own: Tensor = own) -> Tensor:
            work.wait()
            return gathered.view(self.world_size, *tensor.shape)

        return wait

    def gather_counts(self, counts: Sequence[int]) -> Ints:
        """Return (W, k) from as many numbers on every rank, from host to host: no device takes part or waits."""
        with phase("exchange"):
            return self.start_gather_counts(counts)()

    def start_gather_counts(self, counts: Sequence[int]) -> Callable[[], Ints]:
        """Start `gather_counts` and return what waits for it."""
        own = torch.tensor(counts, dtype=torch.int64)
        gathered = own.new_empty(self.world_size * len(own))
        work = dist.all_gather_into_tensor(gathered, own, group=self._hosts, async_op=True)

        def wait(own: Tensor = own) -> Ints:  # held with the work, as above
            work.wait()
            return gathered.view(self.world_size, len(own)).numpy()

        return wait

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over ranks; `tensor` itself is left alone."""
        total = tensor.detach().clone()
        dist.all_reduce(total)
        return total

    def any(self, *flags: bool) -> list[bool]:
        """Return for each flag whether it is set on any rank."""
        marks = torch.tensor(flags, dtype=torch.uint8)
        with phase("exchange"):
            dist.all_reduce(marks, op=dist.ReduceOp.MAX, group=self._hosts)
        return [bool(mark) for mark in marks.tolist()]

    def gather_objects(self, value: Any) -> list[Any]:
        """Return what every rank gives, in rank order; for bookkeeping outside the step."""
        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, value)
        return gathered

    def from_first(self, value: Any) -> Any:
        """Return what rank 0 gives, on every rank; for bookkeeping outside the step."""
        values = [value]
        dist.broadcast_object_list(values, src=0, device=self.device)
        return values[0]

    def exchange(self, after: int, before: int, size: int) -> float:
        """Send `size` bytes to rank `after`, host to host; return the seconds until as many from `before` are here."""
        sent, received = torch.zeros(size, dtype=torch.uint8), torch.empty(size, dtype=torch.uint8)
        begun = time.perf_counter()
        sending = dist.isend(sent, after, group=self._hosts)
        dist.recv(received, before, group=self._hosts)
        seconds = time.perf_counter() - begun
        if sending is not None:
            sending.wait()
        return seconds

    def barrier(self) -> None:
        """Wait for all ranks."""
        dist.barrier()

    def close(self) -> None:
        """Leave the process group."""
        if self._owns and dist.is_initialized():
            dist.destroy_process_group()


def _messages(device: torch.device) -> Messages:
    """Return what watches the messages of this process, DeepSpeed's included; one for all groups that are built."""
    backend = comm.comm.cdb
    found = vars(backend).get("sclds_messages")
    if found is None:
        found = backend.sclds_messages = Messages(device)
        watch_collectives(backend, found, lambda group: dist.get_world_size(group))
    return found


def lost_peer(fault: RuntimeError) -> bool:
    """Return whether a collective failed because another process is gone."""
    return isinstance(fault, dist.DistError) or "gloo/transport" in str(fault)


_OUT_OF_REACH = ("No route to host", "Connection timed out", "Network is unreachable", "Network is down")
_TOO_LONG = ("Timed out waiting", "Watchdog caught collective operation timeout")
"""What gloo, NCCL's watchdog and the system say of a link, and of a wait that was longer than a collective's limit."""


def how_lost(fault: RuntimeError) -> str:
    """Return what became of the other process, as far as the fault of a collective tells."""
    text = str(fault)
    if any(words in text for words in _OUT_OF_REACH):
        return "cannot reach another process of this run any more: its host or the link is down"
    if any(words in text for words in _TOO_LONG):
        return (
            "waited for another process of this run for longer than a collective may: it hangs, is stopped or far "
            "behind, or the link to it is down"
        )
    return "lost another process of this run, which was killed or failed (its own message says why)"


def memory_per_process(device: torch.device) -> int:
    """Return the bytes of a process's device; on CPU its share of the machine's."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


GATHERS = frozenset({"all_gather", "all_gather_into_tensor", "all_gather_base", "all_gather_coalesced"})
"""DeepSpeed's names of the messages that carry parameters."""


class Sent(NamedTuple):
    """Messages of DeepSpeed's since the count before."""

    gathers: int
    """Messages that carried parameters."""
    gathered_bytes: int
    """What this process gave to them: a parameter's part counts as often as the parameter is gathered."""
    others: int
    """Reductions of gradients, and of the few numbers on which ranks agree."""
    other_bytes: int
    """What these reduce, whole."""


@contextmanager
def counted_messages() -> Iterator[Callable[[], Sent]]:
    """Count, by DeepSpeed's own log, while inside; the function given returns what was sent since it was last called.

    DeepSpeed waits for every message that it counts, so that nothing here may be timed.
    """
    before = comms_logger.enabled, comms_logger.prof_all
    comms_logger.reset_data()
    comm.configure(enabled=True, prof_all=True)

    def sent() -> Sent:
        rows = [
            (name, size, facts[0])
            for name, sizes in comms_logger.get_raw_data().items()
            for size, facts in sizes.items()
        ]
        comms_logger.reset_data()
        gathers = [(size, count) for name, size, count in rows if name in GATHERS]
        return Sent(
            sum(count for _, count in gathers),
            sum(size * count for size, count in gathers),
            sum(count for name, _, count in rows if name not in GATHERS),
            sum(size * count for name, size, count in rows if name not in GATHERS),
        )

    try:
        yield sent
    finally:
        comm.configure(enabled=before[0], prof_all=before[1])
        comms_logger.reset_data()


def synchronize() -> None:
    """Wait until the accelerator has done what was asked of it; nothing on CPU."""
    get_accelerator().synchronize()


def _without_compiled_collectives() -> None:
    """Keep DeepSpeed from compiling its shared-memory all-reduce for CPU, which only its inference uses.

    The first start would compile for half a minute, and one that is killed meanwhile leaves a lock for which all later
    ones wait without a word.
    """
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def _with_devices_counted_once() -> None:
    """Keep DeepSpeed's CPU accelerator from starting `numactl` to count devices for every bucket of gradients."""
    accelerator = get_accelerator()
    if accelerator.device_name() == "cpu":
        accelerator.device_count = functools.cache(accelerator.device_count)


def meeting_store() -> Any:
    """Return a store that all launched processes share, for those that form no group; rank 0 holds it.

    Raises:
        UserError: They cannot meet.
    """
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    holds = launched_rank() == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"  # torchrun holds its own
    try:
        return dist.TCPStore(address, port, is_master=holds, wait_for_workers=False)
    except (dist.DistNetworkError, dist.DistStoreError) as fault:
        raise UserError(_unreachable(fault)) from fault


def _unreachable(fault: Exception) -> str:
    """Return the sentence of a meeting point at which the processes could not meet."""
    place = meeting_place()
    if "EADDRINUSE" in str(fault) or "address already in use" in str(fault):
        return (
            f"The processes cannot meet at {place}: another program uses this port, perhaps another run. "
            f"Start with another one (`--master-port` of `sclds launch`, `--master_port` of deepspeed and torchrun)"
        )
    came = re.search(r"(\d+)/(\d+) clients joined", str(fault))
    if came:
        return f"Only {came[1]} of {came[2]} processes came to {place}: look for one that failed or was not started"
    return f"The processes cannot meet at {place}: {meeting_problem() or str(fault).splitlines()[0]}"


def _without_launcher() -> None:
    """Set what a launcher would have set, so that a script also runs as one process."""
    if "RANK" in os.environ:
        os.environ.setdefault("LOCAL_RANK", "0")
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))


def available_collectives() -> list[str]:
    """Return which of gloo and nccl this torch has."""
    if not dist.is_available():
        return []
    return [name for name, has in (("gloo", dist.is_gloo_available), ("nccl", dist.is_nccl_available)) if has()]
