"""`sclds benchmark bookkeeping`: a row for each number of ranks, in the table and in the CSV."""

import csv
import sys
from functools import partial

import pytest

from sclds.benchmarks import bookkeeping
from sclds.cli import benchmark_bookkeeping
from sclds.cli.main import main
from sclds.data.shuffle_quality import synthetic_order


def test_every_world_has_a_row(tmp_path):
    rows = bookkeeping.compare_worlds(1000, tmp_path / "deep", (2, 4))
    assert [row.ranks for row in rows] == [2, 4]
    assert all(min(row) > 0 and row.order_ms <= row.order_most_ms for row in rows)
    with (tmp_path / "deep" / "bookkeeping.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [(int(row["ranks"]), float(row["order_ms"])) for row in found] == [(r.ranks, r.order_ms) for r in rows]


def test_the_last_rank_lists_its_own_samples():
    order = synthetic_order(2, bookkeeping.SHARD_SAMPLES, 16, 4 * bookkeeping.RANK_SAMPLES)
    listed = bookkeeping._own_samples(order, 4, 0)
    assert listed == order.global_batch(0)[-32:]
    assert listed != bookkeeping._own_samples(order, 4, 1)


def test_the_command_prints_a_table(tmp_path, monkeypatch, capsys):
    made = [bookkeeping.BookkeepingRow(16384, 1.25, 1.5, 0.5, 9.75, 120.5)]
    monkeypatch.setattr(bookkeeping, "compare_worlds", lambda samples, out: made)
    assert main(["benchmark", "bookkeeping", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    figures = ("1.250", "1.500", "0.500", "9.750", "120.500")
    for part in ("10,000,000 samples", "16,384", *figures, str(tmp_path / "bookkeeping.csv")):
        assert part in shown
    assert main(["benchmark", "bookkeeping", "--samples", "1000"]) == 2
    assert "--samples is 1000: give at least 524288" in capsys.readouterr().err


def test_an_epoch_has_a_step_of_the_largest_world():
    assert max(bookkeeping.RANKS) * bookkeeping.RANK_SAMPLES == benchmark_bookkeeping._LEAST


def lines_run(work):
    """Return how many lines of Python run in our own code."""
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        count += event == "line"
        return trace if "/sclds/" in frame.f_code.co_filename else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("column", [0, 2], ids=["equal rows", "unequal rows"])
def test_no_line_of_the_gathers_books_runs_once_a_rank(column):
    """Whatever the machine and its load: as many lines run for 16,384 ranks as for 8."""
    found = set()
    for ranks in (8, 16_384):
        communicator = bookkeeping._Simulated(ranks)
        communicator.rank = ranks - 1  # the last has all others before it
        table = communicator.gather_counts([bookkeeping._ROWS] * bookkeeping._COUNTS).copy()
        table[1::2, column] = 1
        bookkeeping._books(table, communicator, 0)  # what is made once
        found.add(lines_run(partial(bookkeeping._books, table, communicator, 1)))
    assert len(found) == 1
    assert min(found) > 50
