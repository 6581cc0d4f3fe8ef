"""Windows of batches that are left out: which batch a step reads."""

import itertools

import pytest

from sclds.data.skips import batch_of_step, batches_from, same_until


@pytest.mark.parametrize(
    "windows",
    [(), [(0, 1)], [(3, 4)], [(3, 2), (5, 2)], [(5, 2), (3, 2)], [(3, 4), (4, 1)], [(2, 5), (4, 9)], [(1, 1), (7, 3)]],
)
def test_steps_read_what_no_window_holds_in_order(windows):
    left = {batch for first, count in windows for batch in range(first, first + count)}
    wanted = [batch for batch in range(60) if batch not in left][:30]
    assert [batch_of_step(step, windows) for step in range(30)] == wanted
    assert list(itertools.islice(batches_from(4, windows), 20)) == wanted[4:24]


def test_the_past_is_the_same_where_each_of_its_steps_reads_the_same_batch():
    """Held to its definition for all pairs of a window or two, before and behind the step."""
    single = [(first, count) for first in range(6) for count in (1, 2, 4)]
    settings = [(), *((one,) for one in single), *itertools.combinations(single, 2)]
    for windows in settings[::3]:
        for others in settings[::5]:
            for step in (0, 1, 4, 7):
                read = [[batch_of_step(one, given) for one in range(step)] for given in (windows, others)]
                assert same_until(step, windows, others) == (read[0] == read[1]), (step, windows, others)
