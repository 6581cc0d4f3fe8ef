"""Rows of unequal length in one array."""

import numpy as np

from sclds.batch.ragged import concat, cumulative, exclusive_sum, lengths_of, padded, ranges

NONE = np.zeros(0, np.int64)


def test_ranges_lie_one_behind_the_other_and_may_be_empty():
    assert ranges(np.array([5, 0, 8]), np.array([2, 0, 3])).tolist() == [5, 6, 8, 9, 10]
    assert ranges(7, np.array([2, 1])).tolist() == [7, 8, 7]
    assert ranges(7, NONE).tolist() == []


def test_lengths_and_where_they_begin():
    lengths = lengths_of([np.arange(3), NONE, np.arange(2)])
    assert lengths.tolist() == [3, 0, 2]
    assert exclusive_sum(lengths).tolist() == [0, 3, 3]
    assert cumulative(lengths).tolist() == [0, 3, 3, 5]
    assert cumulative(lengths).dtype == np.int32


def test_no_arrays_make_an_empty_one_of_whole_numbers():
    assert concat([]).dtype == concat([np.arange(2)]).dtype == lengths_of([]).dtype == np.int64


def test_padding_fills_short_lines_with_minus_one():
    assert padded(np.arange(3), np.array([2, 1])).tolist() == [[0, 1], [2, -1]]
    assert padded(NONE, NONE).shape == (0, 0)
