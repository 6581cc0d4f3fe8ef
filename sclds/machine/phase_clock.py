"""Where the time of a step goes: phases, cut out of it by marks at its seams.

`with phase("fusion"):` marks what belongs to a phase; it costs next to nothing while no clock runs. A clock cuts the
time at every beginning and end, on the device's own time line: on CUDA by events that are recorded into the stream of
the step and read a step later, when the device has passed them, so that nobody waits for them; elsewhere by the host's
clock. A phase inside another one takes its time out of it, so that phases add up to the step.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol

import torch

STAGES = ("data", "exchange", "forward", "backward", "optimizer")
"""Phases of the step itself; the others lie inside them."""
WAITS = ("exchange", "wait_features", "wait_parameters", "reduce")
"""Phases in which a process waits for others: for numbers from host to host, features, parameters and gradients."""
LOSS = "loss_"
"""Before the name of an objective: the phase that computes its loss."""
OTHER = "other"
"""What lies in no phase: the loop itself."""
PHASES = (
    *("data", "exchange", "forward", "text_encoder", "vision_encoder", "heads", "fusion", "features", "wait_features"),
    *("backward", "wait_parameters", "reduce", "optimizer", OTHER),
)
"""All but those of the losses. `forward` and `backward` are what is left of them without the phases inside."""

Label = str | Mapping[str, float]
"""A phase, or several that one launch computes together, with their shares of its work."""


class Event(Protocol):
    """A place in the time line of a device, as `torch.cuda.Event` is one."""

    def record(self) -> None:
        """Put it behind what the device has been asked for."""

    def query(self) -> bool:
        """Return whether the device has passed it; does not wait."""
        ...

    def elapsed_time(self, end: Any) -> float:
        """Return the milliseconds until another one that was passed."""
        ...


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step by phase."""

    phases: Mapping[str, float]
    """On the device's time line; they add up to the step."""
    stages: Mapping[str, float]
    """The same time by the outermost phase."""
    host: Mapping[str, float]
    """By outermost phase, on the host's clock: while a device computes, the host is ahead of it."""

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return sum(self.stages.values())


@dataclass
class _Step:
    """The cuts of a step that has not been read yet."""

    hosts: list[float] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    labels: list[tuple[str, Label]] = field(default_factory=list)
    """Outermost and innermost phase of what ends at each cut; the first cut ends nothing."""


class PhaseClock:
    """Measures steps; `running` is true for at most one clock of a process.

    Args:
        device: Of the step.
        make_event: Gives events; by default CUDA's on a CUDA device, and none elsewhere.
        traced: Whether phases are also ranges of torch's profiler.
    """

    def __init__(self, device: torch.device, make_event: Callable[[], Event] | None = None, traced: bool = False):
        self._make_event = make_event or (_cuda_event if device.type == "cuda" else None)
        self._on_cuda = device.type == "cuda"
        self._stream = torch.cuda.current_stream(device) if self._on_cuda else None
        self._spare: list[Event] = []
        self._unread: deque[_Step] = deque()
        self._step: _Step | None = None
        self._stack: list[Label] = []
        self.traced = traced

    def begin(self) -> None:
        """Begin a step: from now on `phase` cuts its time."""
        global _running
        self._step, self._stack = _Step(), []
        self._cut()
        _running = self

    def end(self) -> None:
        """End the step."""
        global _running
        _running = None
        if self._step is not None:
            self._cut()
            self._unread.append(self._step)
            self._step = None

    def drop(self) -> None:
        """Forget the step that has begun and those that were not read."""
        global _running
        _running = None
        self._step = None
        self._unread.clear()

    def enter(self, label: Label) -> None:
        """Begin a phase inside the one that runs."""
        self._cut()
        self._stack.append(label)

    def leave(self) -> None:
        """End the innermost phase."""
        self._cut()
        self._stack.pop()

    def taken(self) -> list[StepTime]:
        """Return the steps that the device has done, each once, oldest first; waits for nothing."""
        found = []
        while self._unread and (not self._unread[0].events or self._unread[0].events[-1].query()):
            step = self._unread.popleft()
            found.append(_read(step))
            self._spare += step.events
        return found

    def here(self) -> bool:
        """Return whether what is launched now goes into the stream of the step, and not into one beside it."""
        return not self._on_cuda or torch.cuda.current_stream() == self._stream

    def _cut(self) -> None:
        step = self._step
        if step is None:
            return
        step.hosts.append(time.perf_counter())
        if self._make_event is not None:
            event = self._spare.pop() if self._spare else self._make_event()
            event.record()
            step.events.append(event)
        stack = self._stack
        step.labels.append((_name(stack[0]), stack[-1]) if stack else (OTHER, OTHER))


_running: PhaseClock | None = None


class phase(AbstractContextManager[None]):
    """Marks a block of a step as a phase of it.

    Args:
        label: Its name; or, where one launch computes several phases together, their names with shares that add up
            to 1.
        aside: Whether the block may run in a stream beside the step's, whose time line it then leaves alone.
    """

    __slots__ = ("_aside", "_clock", "_label", "_range")

    def __init__(self, label: Label, aside: bool = False):
        self._label, self._aside = label, aside
        self._clock: PhaseClock | None = None
        self._range: Any = None

    def __enter__(self) -> None:
        """Begin the phase, if a clock runs."""
        clock = _running
        if clock is None or (self._aside and not clock.here()):
            return
        self._clock = clock
        if clock.traced:
            self._range = torch.profiler.record_function(f"phase:{_name(self._label)}")
            self._range.__enter__()
        clock.enter(self._label)

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        if self._clock is None:
            return
        self._clock.leave()
        self._clock = None
        if self._range is not None:
            self._range.__exit__(kind, fault, trace)


def marked(label: Label, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that is a phase of the step whose stream it runs in."""

    def phased(*args: Any, **kwargs: Any) -> Any:
        with phase(label, aside=True):
            return function(*args, **kwargs)

    return phased


def clock_runs() -> bool:
    """Return whether a step is being measured."""
    return _running is not None


def shares_of(work: Mapping[str, float]) -> Label:
    """Return the label of phases that one launch computes, by how much work each of them is."""
    whole = sum(work.values())
    return {name: part / whole if whole else 1 / len(work) for name, part in work.items()}


def _name(label: Label) -> str:
    return label if isinstance(label, str) else "+".join(label)


def _cuda_event() -> Event:
    return torch.cuda.Event(enable_timing=True)


def _read(step: _Step) -> StepTime:
    """Add up the time between cuts."""
    phases: dict[str, float] = {}
    stages: dict[str, float] = {}
    host: dict[str, float] = {}
    for number in range(1, len(step.labels)):
        stage, label = step.labels[number]
        on_host = step.hosts[number] - step.hosts[number - 1]
        seconds = on_host
        if step.events:
            seconds = step.events[number - 1].elapsed_time(step.events[number]) / 1000
        stages[stage] = stages.get(stage, 0.0) + seconds
        host[stage] = host.get(stage, 0.0) + on_host
        for name, share in ((label, 1.0),) if isinstance(label, str) else label.items():
            phases[name] = phases.get(name, 0.0) + share * seconds
    return StepTime(phases, stages, host)
