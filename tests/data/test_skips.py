"""Windows of batches that are left out: which batch a step reads."""

import itertools

import pytest

from sclds.data.skips import batch_of_step, batches_from


@pytest.mark.parametrize(
    "windows",
    [(), [(0, 1)], [(3, 4)], [(3, 2), (5, 2)], [(5, 2), (3, 2)], [(3, 4), (4, 1)], [(2, 5), (4, 9)], [(1, 1), (7, 3)]],
)
def test_steps_read_what_no_window_holds_in_order(windows):
    left = {batch for first, count in windows for batch in range(first, first + count)}
    wanted = [batch for batch in range(60) if batch not in left][:30]
    assert [batch_of_step(step, windows) for step in range(30)] == wanted
    assert list(itertools.islice(batches_from(4, windows), 20)) == wanted[4:24]
