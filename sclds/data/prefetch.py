"""Work done ahead in a thread, bounded in number and in bytes, so that a slow consumer costs no memory."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, Self, TypeVar

from torch import cuda

from sclds.batch import Batch

T = TypeVar("T")
_POLL_SECONDS = 0.2


class Prefetch(Generic[T]):
    """Yields what a producer yields, which runs ahead in a thread of its own while this is entered.

    The thread ends with the `with` block, or with the main thread where nobody leaves the block. An error of the
    producer is raised to the consumer, after what was produced before it.

    Args:
        produce: Called in the thread.
        most: Items that wait at once.
        most_bytes: Bytes of the items that wait and of the one being made, judged by the largest so far. One item is
            always made, whatever its size.
        size_of: Bytes of an item.
        name: Of the thread.
    """

    def __init__(
        self, produce: Callable[[], Iterator[T]], most: int, most_bytes: int, size_of: Callable[[T], int], name: str
    ):
        self._produce, self._size_of = produce, size_of
        self._most, self._most_bytes = most, most_bytes
        self._ready: deque[T] = deque()
        self._bytes = self._largest = 0
        self._fault: BaseException | None = None
        self._ended = self._stopped = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=name)
        self.waited = 0.0
        """Seconds for which the consumer has waited."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join()
        self._ready.clear()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        begun = time.perf_counter()
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._ended)
            self.waited += time.perf_counter() - begun
            if not self._ready:
                raise self._fault or StopIteration
            item = self._ready.popleft()
            self._bytes -= self._size_of(item)
            self._changed.notify_all()
        return item

    def _run(self) -> None:
        items = self._produce()
        try:
            while self._room():
                item = next(items, None)
                if item is None:
                    break
                with self._changed:
                    self._ready.append(item)
                    self._bytes += self._size_of(item)
                    self._largest = max(self._largest, self._size_of(item))
                    self._changed.notify_all()
                del item  # or this thread would keep a batch alive that everybody else has let go
        except BaseException as fault:  # raised again by the consumer
            self._fault = fault
        finally:
            items.close()  # type: ignore[attr-defined]
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _room(self) -> bool:
        """Wait until another item may be made; return False if nobody wants it any more."""
        with self._changed:
            while not self._stopped and threading.main_thread().is_alive():
                few = len(self._ready) < self._most and self._bytes + self._largest <= self._most_bytes
                if few or not self._ready:
                    return True
                self._changed.wait(_POLL_SECONDS)
        return False


def pinned(batch: Batch) -> Batch:
    """Return a batch that a CUDA device can copy while it computes; without one, the batch itself."""
    return batch.in_one_block(pinned=True) if cuda.is_available() else batch
