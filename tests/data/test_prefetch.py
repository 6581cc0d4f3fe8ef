"""What runs ahead stays within its bounds, ends with its consumer, and hands its errors over; memory is used again."""

import gc
import threading
import time

import pytest
import torch

from sclds.data.media.buffers import Buffers
from sclds.data.media.decode import joined
from sclds.data.prefetch import Prefetch


def until(condition, seconds: float = 5.0) -> bool:
    end = time.perf_counter() + seconds
    while not condition() and time.perf_counter() < end:
        time.sleep(0.005)
    return condition()


def running() -> bool:
    return any(thread.name == "ahead" for thread in threading.enumerate())


def counting(made: list[int], size: int = 1, last: int = 10**9):
    def produce():
        for number in range(last):
            made.append(number)
            yield bytes([number % 256]) * size

    return produce


@pytest.mark.parametrize(
    ("most", "most_bytes", "expected"),
    [(3, 10**6, 3), (100, 450, 4), (100, 1, 1)],
    ids=["by number", "by bytes", "one whatever its size"],
)
def test_no_more_is_made_ahead_than_allowed(most, most_bytes, expected):
    made: list[int] = []
    with Prefetch(counting(made, 100), most, most_bytes, len, "ahead") as ahead:
        assert until(lambda: len(made) == expected)
        time.sleep(0.05)
        assert len(made) == expected
        assert [next(ahead)[0] for _ in range(7)] == list(range(7))
        assert until(lambda: len(made) == 7 + expected)
    assert not running()


def test_the_wait_is_counted_on_the_consumer_alone():
    def slow():
        for _ in range(3):
            time.sleep(0.05)
            yield b"x"

    with Prefetch(slow, 2, 100, len, "ahead") as ahead:
        assert len(list(ahead)) == 3
        assert 0.1 < ahead.waited < 1
    with Prefetch(counting([], last=5), 9, 100, len, "ahead") as ahead:
        assert until(lambda: not running())
        assert len(list(ahead)) == 5
        assert ahead.waited < 0.05


def test_an_error_comes_after_what_was_made_before_it_and_again():
    def failing():
        yield b"good"
        raise OSError("the disk is gone")

    with Prefetch(failing, 5, 100, len, "ahead") as ahead:
        assert next(ahead) == b"good"
        for _ in range(2):
            with pytest.raises(OSError, match="the disk is gone"):
                next(ahead)
    assert not running()


def test_leaving_ends_the_thread_and_closes_the_producer():
    closed = []

    def produce():
        try:
            while True:
                yield b"x"
        finally:
            closed.append(True)

    def interrupted():
        with Prefetch(produce, 2, 100, len, "ahead") as ahead:
            next(ahead)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert closed == [True]
    assert not running()


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch has its own pool of pinned memory")
def test_memory_is_used_again_only_when_nobody_holds_it():
    buffers = Buffers()
    first = buffers.take(10, 4)
    place, part = first.data_ptr(), first[3:5]
    del first
    gc.collect()
    other = buffers.take(10, 4)
    assert other.data_ptr() != place, "a part of the first is still held"
    del part
    gc.collect()
    again = buffers.take(5, 8)
    assert again.data_ptr() == place
    assert again.shape == (5, 8)
    assert buffers.take(100, 4).numel() == 400


def test_neighboring_rows_are_joined_without_a_copy():
    whole = torch.arange(24.0).view(6, 4)
    parts = list(whole.split([1, 3, 2]))
    assert joined(parts).data_ptr() == whole.data_ptr()
    assert torch.equal(joined(parts), whole)
    for others in (parts[::-1], [parts[0], parts[2]], [*parts[:2], parts[2].clone()]):
        assert torch.equal(joined(others), torch.cat(others))
