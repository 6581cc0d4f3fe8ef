"""What stage 3 gathers in a forward and its backward: DeepSpeed's fetching and releasing, replayed without tensors.

After `runtime/zero/partitioned_param_coordinator.py` of DeepSpeed 0.19.8, as it goes once it knows the order in which
modules are used, from the third step on: a module's tensors are gathered when it is entered, if they are not there;
then those that come next in the order, up to a bucket and to what may be there at a time; when it is left, its tensors
are released unless they are used again soon, or the order has already been read beyond that use.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

from sclds.costs.tensors import ParameterTensor

_ENCODERS = ("text_encoder", "vision_encoder")
"""Modules with others inside that are called themselves; lists of layers are not."""


@dataclass(frozen=True)
class Gathers:
    """All gathers of a forward and its backward."""

    count: int
    sizes: tuple[int, ...]
    """Values of every tensor that is gathered, as often as it is."""


@dataclass(frozen=True)
class _Visit:
    """One entry of a module; tensors by their place."""

    own: tuple[int, ...]
    below: tuple[int, ...]
    """Its own, and those of modules inside."""
    leaf: bool
    """Whether DeepSpeed takes it, with all inside, for one module."""


@lru_cache(maxsize=64)
def gathers_of(tensors: tuple[ParameterTensor, ...], fetched: int, reuse: int, live: int) -> Gathers:
    """Return what is gathered.

    Args:
        tensors: Those that are used, in the order of a forward.
        fetched: Values of a bucket that is fetched ahead; 0 fetches nothing ahead.
        reuse: Values that lie between two uses at most where a tensor stays.
        live: Values that may be there for something to be fetched ahead.
    """
    coordinator = _Coordinator([tensor.numel for tensor in tensors], list(_visits(tensors)))
    for step in range(len(coordinator.visits)):
        coordinator.enter(step, fetched, live)
        coordinator.leave(step, reuse)
    sizes = (tensors[place].numel for message in coordinator.messages for place in message)
    return Gathers(len(coordinator.messages), tuple(sizes))


def _visits(tensors: Sequence[ParameterTensor]) -> Iterator[_Visit]:
    """Yield the modules in the order in which forward and backward enter them."""
    everything = tuple(range(len(tensors)))
    modules = [list(group) for _, group in groupby(everything, key=lambda place: tensors[place].module)]
    for order in (modules, modules[::-1]):
        yield _Visit((), everything, leaf=False)  # the model itself
        for top, inside in groupby(order, key=lambda places: tensors[places[0]].module.partition(".")[0]):
            if top in _ENCODERS:
                below = tuple(place for place in everything if tensors[place].module.partition(".")[0] == top)
                yield _Visit((), below, leaf=False)
            for places in inside:
                yield _Visit(tuple(places), tuple(places), tensors[places[0]].leaf)


class _Coordinator:
    """Which tensors are there, and which of their uses have been looked at."""

    def __init__(self, sizes: Sequence[int], visits: Sequence[_Visit]):
        self.visits = visits
        self.messages: list[list[int]] = []
        self._sizes = sizes
        self._ahead = deque((place, step) for step, visit in enumerate(visits) for place in visit.own)
        self._seen = [-1] * len(sizes)
        """Of each tensor, the last use that has been looked at."""
        self._there: set[int] = set()
        self._held = 0

    def enter(self, step: int, fetched: int, live: int) -> None:
        """Gather what a module needs, and what comes next."""
        own = self.visits[step].own
        self._gather(place for place in own if place not in self._there)
        for _ in {place for place in own if self._seen[place] < step}:
            place, use = self._ahead.popleft()
            self._seen[place] = use
        coming, values, room = list[int](), 0, min(live - self._held, fetched)
        while self._ahead and values < room:
            place, use = self._ahead.popleft()
            self._seen[place] = max(self._seen[place], use)
            if place not in self._there and place not in coming:
                coming.append(place)
                values += self._sizes[place]
        self._gather(coming)

    def leave(self, step: int, reuse: int) -> None:
        """Release what is not used again soon."""
        visit = self.visits[step]
        free = {place for place in visit.own if self._seen[place] <= step + 1}
        between = 0
        for later in self.visits[step + 1 :]:
            if between >= reuse or not free:
                break
            passed = later.below if visit.leaf else later.own
            free -= set(passed)
            between += sum(self._sizes[place] for place in passed)
        self._there -= free
        self._held -= sum(self._sizes[place] for place in free)

    def _gather(self, places: Iterable[int]) -> None:
        message = list(places)
        if message:
            self.messages.append(message)
            self._there |= set(message)
            self._held += sum(self._sizes[place] for place in message)
