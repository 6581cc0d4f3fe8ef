"""The order is a permutation per epoch, complete, the same for every world size, and reachable at any step."""

import tracemalloc

import numpy as np
import pytest

from sclds.data.keys import generator
from sclds.data.order import Order, Place, itm_partners, positions_of
from sclds.data.storage.files import StoredFile
from sclds.data.storage.sample_index import SampleIndex, Shard


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


def random_mixture(draw: np.random.Generator) -> tuple[SampleIndex, dict[str, float], int, int]:
    """Some data sets with shards of any size, empty ones among them, weights, a block and a global batch size."""
    sizes = {}
    for number in range(draw.integers(1, 4)):
        counts = draw.integers(0, 40, draw.integers(1, 9))
        counts[0] += 1
        sizes[f"set{number}"] = counts.tolist()
    weights = {name: float(draw.choice([1.0, 2.0, 0.3, 1.5, 0.05, 2.75])) for name in sizes}
    return index_of(**sizes), weights, int(draw.integers(1, 12)), int(draw.choice([24, 48, 120]))


@pytest.mark.parametrize("trial", range(40))
def test_any_mixture_is_complete_exact_and_without_repeats(trial):
    draw = np.random.default_rng(trial)
    index, weights, block, size = random_mixture(draw)
    order = Order(index, weights, trial, size, block)
    samples = len(index)
    for epoch in (0, 1, 7):
        numbers = order.epoch(epoch)
        assert len(numbers) == len(np.unique(numbers)) == order.epoch_size
        repeats, seen = np.divmod(numbers, samples)
        first = 0
        for name, weight in weights.items():
            count = sum(len(shard) for shard in index.shards if shard.dataset == name)
            times = np.bincount(seen[(seen >= first) & (seen < first + count)] - first, minlength=count)
            assert times.sum() == max(1, round(weight * count)) or abs(times.sum() - weight * count) <= 0.5
            assert times.min() >= int(weight)
            assert times.max() <= int(weight) + 1
            first += count
        for sample in np.unique(seen):
            assert sorted(repeats[seen == sample]) == list(range((seen == sample).sum()))


@pytest.mark.parametrize("trial", range(20))
def test_ranks_resume_and_elastic_change_give_one_stream(trial):
    """Whatever number of ranks reads which step, afresh or going on, the samples are those of one process."""
    draw = np.random.default_rng(100 + trial)
    index, weights, block, size = random_mixture(draw)

    def fresh() -> Order:
        return Order(index, weights, trial, size, block)

    order, numbers, samples = fresh(), [], len(index)
    epochs = -(-12 * size // order.epoch_size)
    stream = np.concatenate([order.epoch(epoch) for epoch in range(epochs)])[: 12 * size]
    for step in range(12):
        world = int(draw.choice([1, 2, 3, 8]))
        rank_order = fresh() if draw.random() < 0.5 else order
        places = rank_order.global_batch(step)
        micro = int(draw.choice([m for m in (1, 2, 3) if size % (m * world) == 0]))
        read = [
            places[g]
            for a in range(size // (micro * world))
            for rank in range(world)
            for g in positions_of(a, rank, world, micro)
        ]
        assert read == places
        numbers += [place.sample + place.repeat * samples for place in read]
    assert numbers == stream.tolist()
    assert numbers[-size:] == [place.sample + place.repeat * samples for place in fresh().global_batch(11)]


def test_reading_stays_in_a_block_and_what_comes_next_is_known():
    index = index_of(pictures=[10] * 12)
    order = order_of(index, global_size=24, block=4)
    for step in range(30):
        read = {place.sample // 10 for place in order.global_batch(step)}
        ahead = order.shards_ahead(step)
        assert len(ahead) <= 8
        assert read <= set(ahead), "a step reads from the block in which it begins and the next"
    assert {place.sample // 10 for place in order.global_batch(0)} <= set(order.shards_ahead(0)[:4])


def test_ten_million_samples_need_no_list_of_them():
    """The first batch of 10 million samples costs what a block costs: numbers of shards, not of samples."""
    tracemalloc.start()
    order = order_of(index_of(pictures=[10_000] * 1000), global_size=4096, block=16)
    places = [order.global_batch(step) for step in (0, 2441, 2442, 10**6)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40e6
    assert len({place.sample for place in places[0]}) == 4096
    assert {place.epoch for place in places[1]} == {0, 1}
