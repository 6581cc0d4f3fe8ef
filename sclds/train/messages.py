"""Messages between processes in a step: what a process receives, how long they travel, and that computing waits."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from sclds.machine.phase_clock import clock_runs, phase

Kind = Literal["features", "parameters", "gradients"]
KINDS: tuple[Kind, ...] = ("features", "parameters", "gradients")
WAIT_FOR: Mapping[Kind, str] = {
    "features": "wait_features",
    "parameters": "wait_parameters",
    "gradients": "reduce",
}
"""The phase in which a step waits for messages of a kind."""


class Watched:
    """A message on its way: what DeepSpeed and we do with a work of torch's, `wait` measured."""

    def __init__(self, work: Any, kind: Kind, begun: Any, messages: "Messages"):
        self._work, self._kind, self._begun, self._messages = work, kind, begun, messages

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        """Wait for the message, as the work does."""
        with phase(WAIT_FOR[self._kind], aside=True):
            found = self._work.wait(*args, **kwargs)
        self._messages.arrived(self._begun)
        return found

    def __getattr__(self, name: str) -> Any:
        """Return what else a work has."""
        return getattr(self._work, name)


@dataclass
class Traffic:
    """Messages of some steps."""

    received: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    """Bytes that this process received."""
    seconds: float = 0.0
    """In which at least one message was on its way: from where it was sent to where it was waited for, which is longer
    than its way where it was there before."""


class Messages:
    """Watches the messages of measured steps; between them it does nothing.

    Args:
        device: Of the tensors that are sent.
    """

    def __init__(self, device: torch.device):
        self._on_cuda = device.type == "cuda"
        self._traffic = Traffic()
        self._unread: list[tuple[Any, Any]] = []
        self._first: Any = None
        """Where the first message was sent of those that were not read: others are timed from there."""

    def sent(self, kind: Kind, received: int, asynchronous: bool, send: Callable[[], Any]) -> Any:
        """Send a message.

        Args:
            kind: What it carries.
            received: Bytes that this process will have got.
            asynchronous: Whether `send` returns before the message is there, and what waits for it.
            send: Sends it.

        Returns:
            What `send` returned; what waits for the message is measured.
        """
        if not clock_runs():
            return send()
        self._traffic.received[kind] += received
        begun = self._now()
        self._first = begun if self._first is None else self._first
        if asynchronous:
            work = send()
            return work if work is None else Watched(work, kind, begun, self)
        with phase(WAIT_FOR[kind], aside=True):
            found = send()
        self.arrived(begun)
        return found

    def arrived(self, begun: Any) -> None:
        """Note that a message is there, or will be when the device comes to this place."""
        self._unread.append((begun, self._now()))

    def taken(self) -> Traffic:
        """Return what was sent since the last call, as far as the device has done it; waits for nothing."""
        found, self._traffic = self._traffic, Traffic()
        pairs, self._unread = self._unread, []
        if self._on_cuda:
            # streams differ, so that a message may be there before another began: events that are not done tell no time
            done = self._first is None or self._first.query()
            self._unread = [pair for pair in pairs if not (done and pair[0].query() and pair[1].query())]
            first, waiting = self._first, {id(pair) for pair in self._unread}
            read = (pair for pair in pairs if id(pair) not in waiting)
            pairs = [(first.elapsed_time(begun) / 1000, first.elapsed_time(there) / 1000) for begun, there in read]
        if not self._unread:
            self._first = None
        found.seconds = covered(pairs)
        return found

    def _now(self) -> Any:
        if not self._on_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def covered(intervals: Sequence[tuple[float, float]]) -> float:
    """Return the length of what intervals cover, each place once."""
    total, end = 0.0, -math.inf
    for start, stop in sorted(intervals):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def _share_of(others: Callable[[tuple[Any, ...], dict[str, Any]], int]) -> Callable[[Any, Any, int], int]:
    return lambda args, kwargs, world: others(args, kwargs) * (world - 1) // world


def _bytes(value: Any) -> int:
    return sum(map(_bytes, value)) if isinstance(value, list | tuple) else value.numel() * value.element_size()


def _argument(position: int, name: str) -> Callable[[tuple[Any, ...], dict[str, Any]], int]:
    return lambda args, kwargs: _bytes(args[position] if len(args) > position else kwargs[name])


COLLECTIVES: Mapping[str, tuple[Kind, Callable[[Any, Any, int], int]]] = {
    "all_gather_into_tensor": ("parameters", _share_of(_argument(0, "output_tensor"))),
    "all_gather": ("parameters", _share_of(_argument(0, "tensor_list"))),
    "all_gather_coalesced": ("parameters", _share_of(_argument(0, "output_tensors"))),
    "broadcast": ("parameters", _share_of(_argument(0, "tensor"))),
    # a ring brings every process the parts of the others twice: to be added up, and as sums
    "all_reduce": ("gradients", lambda args, kwargs, world: 2 * _share_of(_argument(0, "tensor"))(args, kwargs, world)),
    "all_reduce_coalesced": (
        "gradients",
        lambda args, kwargs, world: 2 * _share_of(_argument(0, "tensors"))(args, kwargs, world),
    ),
    "reduce": ("gradients", _share_of(_argument(0, "tensor"))),
    "reduce_scatter": ("gradients", _share_of(_argument(1, "input_list"))),
    "reduce_scatter_tensor": ("gradients", _share_of(_argument(1, "input_tensor"))),
    "all_to_all_single": ("gradients", _share_of(_argument(1, "input"))),
}
"""DeepSpeed's collectives: what they carry, and the bytes that one of `world` processes receives."""


def watch_collectives(backend: Any, messages: Messages, world_size: Callable[[Any], int]) -> None:
    """Have the collectives of DeepSpeed's backend watched.

    Args:
        backend: Of `deepspeed.comm`.
        messages: Watches.
        world_size: Returns the processes of a group; None is all.
    """
    for name, (kind, received) in COLLECTIVES.items():
        if hasattr(backend, name):
            setattr(backend, name, _watched(getattr(backend, name), kind, received, messages, world_size))


def _watched(
    function: Callable[..., Any],
    kind: Kind,
    received: Callable[[Any, Any, int], int],
    messages: Messages,
    world_size: Callable[[Any], int],
) -> Callable[..., Any]:
    def collective(*args: Any, **kwargs: Any) -> Any:
        if not clock_runs():
            return function(*args, **kwargs)
        group = kwargs.get("group", args[2] if len(args) > 2 else None)
        asynchronous = bool(kwargs.get("async_op", args[3] if len(args) > 3 else False))
        size = received(args, kwargs, world_size(group))
        return messages.sent(kind, size, asynchronous, lambda: function(*args, **kwargs))

    return collective
