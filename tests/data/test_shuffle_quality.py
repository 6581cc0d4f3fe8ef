"""The simulator's figures are those of the order, and its verdict follows from them."""

import pytest

from sclds.data.shuffle_quality import perfect_shuffle, simulate, verdict


def test_one_block_of_everything_is_a_perfect_shuffle():
    own, perfect = simulate(50, 40, 50, 200), perfect_shuffle(50, 40, 50, 200)
    assert own.open_shards == pytest.approx(perfect.open_shards, rel=0.02)
    assert own.same_shard == pytest.approx(perfect.same_shard, rel=0.2)
    assert own.travel == pytest.approx(1 / 3, abs=0.05)
    assert own.used == perfect.used == 1
    assert "mixes well" in verdict(own, perfect, 1.0)


def test_a_block_of_one_reads_one_after_the_other():
    own, perfect = simulate(100, 50, 1, 50), perfect_shuffle(100, 50, 1, 50)
    assert (own.open_shards, own.most_open, own.used, own.same_shard) == (1, 1, 1, 1)
    assert perfect.used < 0.05
    assert "100% of a batch's pairs share a shard" in verdict(own, perfect, 1.0)


def test_a_larger_block_mixes_better():
    shares = [simulate(64, 100, block, 400).same_shard for block in (2, 8, 32)]
    assert shares == sorted(shares, reverse=True)
