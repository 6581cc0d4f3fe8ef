"""The order is a permutation per epoch, complete, the same for every world size, and reachable at any step."""

import numpy as np
import pytest

from sclds.data.keys import generator
from sclds.data.order import Order, Place, itm_partners, positions_of
from sclds.data.sample_index import SampleIndex, Shard
from sclds.data.storage import StoredFile


def index_of(**sizes: list[int]) -> SampleIndex:
    shards = []
    for dataset, counts in sizes.items():
        kind = "video" if dataset == "clips" else "image"
        for i, count in enumerate(counts):
            shards.append(Shard(dataset, kind, StoredFile(f"{dataset}/{i}.tar", 0, ""), str(i), {}, 0, count))
    return SampleIndex(shards)


def order_of(index: SampleIndex, seed: int = 0, global_size: int = 24, block: int = 2, **weights: float) -> Order:
    names = {shard.dataset for shard in index.shards}
    return Order(index, {name: weights.get(name, 1.0) for name in names}, seed, global_size, block)


def test_an_epoch_is_a_permutation_of_all_samples():
    index = index_of(pictures=[7, 13, 5, 11], clips=[3])
    order = order_of(index)
    for epoch in (0, 1, 5):
        assert sorted(order.epoch(epoch).tolist()) == list(range(39))
    assert order.epoch(0).tolist() != order.epoch(1).tolist()
    assert order.epoch(0).tolist() == order_of(index).epoch(0).tolist()
    assert order.epoch(0).tolist() != order_of(index, seed=1).epoch(0).tolist()


@pytest.mark.parametrize(("weight", "expected"), [(2.0, 20), (0.3, 3), (1.5, 15), (0.001, 1)])
def test_weights_set_how_often_a_set_is_seen(weight, expected):
    index = index_of(pictures=[12], clips=[6, 4])
    order = order_of(index, clips=weight)
    epoch = order.epoch(0)
    seen = epoch % len(index)
    assert len(epoch) == order.epoch_size == 12 + expected
    assert (seen >= 12).sum() == expected
    assert len(np.unique(epoch)) == len(epoch), "a sample that is seen twice must have two numbers"


def test_the_fractional_part_changes_from_epoch_to_epoch():
    order = order_of(index_of(clips=[40]), clips=0.5)
    assert set(order.epoch(0).tolist()) != set(order.epoch(1).tolist())


def test_shards_are_shuffled_in_blocks():
    index = index_of(pictures=[10] * 6)
    epoch = order_of(index, block=2).epoch(0)
    for start in range(0, 60, 20):
        assert len({int(sample) // 10 for sample in epoch[start : start + 20]}) == 2


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_every_world_size_covers_the_same_global_batch(world_size):
    order = order_of(index_of(pictures=[7, 13, 50]))
    whole = order.global_batch(3)
    micro, seen = 1 if world_size == 8 else 2, []
    for a in range(24 // (micro * world_size)):
        for rank in range(world_size):
            seen += [whole[g] for g in positions_of(a, rank, world_size, micro)]
    assert seen == whole


def test_the_stream_crosses_epochs_and_any_step_can_be_reached():
    index = index_of(pictures=[7, 13])
    forward = order_of(index)
    steps = [forward.global_batch(step) for step in range(10)]
    for step in (9, 0, 4):
        assert order_of(index).global_batch(step) == steps[step]
    stream = [place for step in steps for place in step]
    for epoch in range(12):
        part = stream[epoch * 20 : epoch * 20 + 20]
        assert {place.epoch for place in part} == {epoch}
        assert sorted(place.sample for place in part) == list(range(20))
    assert stream[0] == Place(0, 0, int(forward.epoch(0)[0]))


@pytest.mark.parametrize("size", [1, 2, 3, 8, 15, 16])
def test_half_of_a_group_keeps_its_picture(size):
    kinds = ["video" if i % 5 == 2 else "image" for i in range(size)]
    for trial in range(30):
        partner, label = itm_partners(kinds, generator(0, "itm", trial))
        assert label.sum() == max(size // 2, 1 if size == 1 else 0)
        assert np.array_equal(label == 1, partner == np.arange(size))
        for row in np.flatnonzero(label == 0):
            alike = kinds.count(kinds[row]) > 1
            assert not alike or kinds[partner[row]] == kinds[row]


def test_partners_depend_on_the_key_alone():
    kinds = ["image"] * 16
    first, again, other = (itm_partners(kinds, generator(0, "itm", k))[0].tolist() for k in (1, 1, 2))
    assert first == again != other


def test_keys_do_not_run_together():
    draws = [generator(*key).random() for key in [(0, "a", "b"), (0, "ab"), (0, "a", 1), (0, "a", "1"), (1, "a", "b")]]
    assert len(set(draws)) == len(draws)
    assert generator(0, "a", "b").random() == draws[0]
