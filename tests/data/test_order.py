"""The order is a permutation per epoch, complete, the same for every world size, and reachable at any step."""

import hashlib
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


def alike(kinds: list[str]) -> np.ndarray:
    """Return which members may be wrong partners: all others of the kind."""
    kind = np.array(kinds)
    return (kind[:, None] == kind) & ~np.eye(len(kinds), dtype=bool)


@pytest.mark.parametrize("size", [1, 2, 3, 8, 15, 16])
def test_half_of_a_group_keeps_its_picture(size):
    kinds = ["video" if i % 5 == 2 else "image" for i in range(size)]
    alone = ~alike(kinds).any(1)
    for trial in range(30):
        partner, label = itm_partners(alike(kinds), generator(0, "itm", trial))
        wrong = size - size // 2
        assert wrong - alone.sum() <= (label == 0).sum() <= wrong
        assert np.array_equal(label == 1, partner == np.arange(size))
        assert all(label[alone] == 1)
        assert all(kinds[partner[row]] == kinds[row] for row in range(size)), "the kind must not betray the label"


def test_a_wrong_partner_is_one_that_may_be():
    possible = np.zeros((4, 4), bool)
    possible[0, 2] = possible[2, 0] = possible[2, 3] = True
    seen = set()
    for trial in range(200):
        partner, label = itm_partners(possible, generator(0, "itm", trial))
        seen |= {(row, int(partner[row])) for row in range(4) if label[row] == 0}
    assert seen == {(0, 2), (2, 0), (2, 3)}


def test_partners_depend_on_the_key_alone():
    kinds = ["image"] * 16
    first, again, other = (itm_partners(alike(kinds), generator(0, "itm", k))[0].tolist() for k in (1, 1, 2))
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


@pytest.mark.parametrize("trial", range(60))
def test_no_sample_stands_twice_in_a_batch_where_the_order_can_help_it(trial):
    """Weights and the ends of epochs bring a sample again; with four batches an epoch it is always moved away."""
    index, weights, block, size = random_mixture(np.random.default_rng(trial))
    order = Order(index, weights, trial, size, block)
    crowded = order.crowded()
    for step in range(16):
        seen = [place.sample for place in order.global_batch(step)]
        repeated = len(seen) - len(set(seen))
        if order.epoch_size >= 4 * size and max(weights.values()) * size < 0.8 * order.epoch_size:
            assert not crowded
            assert repeated == 0
    assert (max(weights.values()) * size > order.epoch_size + size) <= bool(crowded)


def test_a_data_set_smaller_than_its_share_of_a_batch_is_named():
    order = order_of(index_of(pictures=[90], clips=[5]), global_size=24, clips=6.0)
    assert order.crowded() == {"clips": (5, 6.0)}
    assert order.crowding() == [
        "Data set 'clips' has 5 samples, and a global batch takes 6.0 of it: some stand there twice. "
        "Lower its weight or batch.global_size to avoid that"
    ]
    assert order_of(index_of(pictures=[90], clips=[5]), global_size=20, clips=6.0).crowded() == {}
    stream = [place.sample for step in range(5) for place in order.global_batch(step)]
    assert sorted(stream) == sorted(order.epoch(0) % 95), "the epoch is complete all the same"


def test_repetitions_move_within_their_blocks():
    """What is kept apart still is what the block would have held, so that files are read in the same order."""
    index = index_of(pictures=[40] * 6)
    order = order_of(index, global_size=24, block=2, pictures=2.0)
    epoch = order.epoch(1)
    assert len(np.unique(epoch)) == 480
    for start in range(0, 480, 80):
        assert len({int(number) // 40 for number in epoch[start : start + 80]}) == 2


def test_partners_and_labels_are_whole_numbers():
    partner, label = itm_partners(np.zeros((3, 3), bool), generator(0))
    assert (partner.dtype, label.dtype) == (np.int64, np.int64)


@pytest.mark.parametrize("block", [1, 2, 4, 9])
def test_what_is_read_ahead_is_the_block_of_the_step_and_the_next_also_of_the_next_epoch(block):
    """Against the order itself: the blocks in which its samples lie, in the order of reading."""
    size = 6
    order = order_of(index_of(pictures=[8] * 7), global_size=size, block=block)
    for step in range(40):
        epoch, row = divmod(step * size, order.epoch_size)
        read = {e: list(dict.fromkeys((order.epoch(e) // 8).tolist())) for e in (epoch, epoch + 1)}
        blocks = {e: [frozenset(read[e][i : i + block]) for i in range(0, 7, block)] for e in read}
        first = row // (8 * block)
        here = blocks[epoch][first]
        after = blocks[epoch][first + 1] if first + 1 < len(blocks[epoch]) else blocks[epoch + 1][0]
        ahead = order.shards_ahead(step)
        assert set(ahead[: len(here)]) == here
        assert set(ahead) == here | after
        assert len(ahead) == len(set(ahead))


def test_the_order_is_the_same_from_version_to_version():
    """A run goes on under a newer version: what draws the order may not change without saying so in the change log.

    Two sets, one seen one and a third times, so that repetitions are drawn and kept apart within and across stretches.
    """
    index = index_of(pictures=[7, 13, 5, 11], clips=[6, 4])
    order = order_of(index, seed=3, global_size=12, block=2, clips=1.3)
    places = [(place.epoch, place.sample, place.repeat) for step in range(40) for place in order.global_batch(step)]
    assert hashlib.sha256(str(places).encode()).hexdigest()[:16] == "69acf582c5208a47"


def test_repetitions_are_moved_the_same_way_from_version_to_version():
    """As above, for mixtures of all kinds: what is moved where, in a stretch and where epochs meet."""
    digest = hashlib.sha256()
    for trial in range(20):
        index, weights, block, size = random_mixture(np.random.default_rng(trial))
        once = {name: min(weight, 1.0) for name, weight in weights.items()}
        for order in (Order(index, weights, trial, size, block), Order(index, once, trial, size, block)):
            for epoch in (0, 1, 3):
                digest.update(order.epoch(epoch).tobytes())
    assert digest.hexdigest()[:16] == "9538fd2e82750139"


def test_a_process_shuffles_the_block_that_it_reads_of_and_no_other(monkeypatch):
    """However many blocks a global batch is; so what a rank computes does not grow with the cluster."""
    shuffled = []

    def noted(seed: int, *words: str | int) -> np.random.Generator:
        shuffled.extend([words[1:]] if words[0] == "block" else [])
        return generator(seed, *words)

    monkeypatch.setattr("sclds.data.order.generator", noted)
    order = order_of(index_of(pictures=[10] * 400), global_size=400, block=2)
    for step in range(30):
        shuffled.clear()
        order.places(step, range(384, 388))
        epoch, row = divmod(400 * step + 384, 4000)
        assert shuffled == [(epoch, row // 20 * 2)]


def test_epochs_that_share_no_shard_where_they_meet_are_not_compared(monkeypatch):
    compared = []
    monkeypatch.setattr("sclds.data.order.apart_from", lambda stretch, *_: compared.append(stretch) or stretch.numbers)
    order = order_of(index_of(pictures=[10] * 400), global_size=48, block=2)
    meeting = 0
    for epoch in range(1, 60):
        batch = order.global_batch(4000 * epoch // 48)
        shards = [{place.sample // 10 for place in batch if place.epoch == e} for e in (epoch - 1, epoch)]
        meeting += not shards[0].isdisjoint(shards[1])
    assert meeting <= len(compared) <= 10, "few of the epochs, those that do among them"
    assert meeting
