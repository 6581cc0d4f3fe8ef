"""What stands in for a bad sample keeps the mixture, favors nobody, costs a bounded number of reads, and depends on
its place alone."""

from collections import Counter

import numpy as np
import pytest

from sclds.config.errors import DataError
from sclds.data.loader import Quarantine, TrainingBatches
from sclds.data.order import Order, Place, weights_of
from sclds.data.replacement import Replacements
from sclds.data.samples import SampleMaker
from sclds.data.storage.shards import open_index
from sclds.data.tokenizer import load_tokenizer

from .faults import WORDS, write_shard
from .synthetic import clip, picture
from .test_faults import config_over


def good(count: int, prefix: str = "g") -> dict:
    return {f"{prefix}{k:02d}": [(".png", picture(k)), (".json", WORDS)] for k in range(count)}


def bad(count: int) -> dict:
    return {f"b{k:02d}": [(".png", b"no picture"), (".json", WORDS)] for k in range(count)}


@pytest.fixture
def config(tmp_path):
    """A data set that is good, one of which a quarter is bad, one that is bad as a whole, and clips."""
    sets = {"good": good(40), "mixed": good(30, "m") | bad(10), "bad": bad(20)}
    train = [{"name": name, "shards": str(write_shard(tmp_path / name / "0.tar", s))} for name, s in sets.items()]
    moving = {f"c{k}": [(".mp4", clip(3)), (".json", WORDS)] for k in range(4)}
    shard = write_shard(tmp_path / "clips" / "0.tar", moving)
    train.append({"name": "clips", "kind": "video", "shards": str(shard)})
    return config_over([], train=train)


def names(config, steps: int, world: int = 1, quarantine: Quarantine | None = None) -> list[str]:
    tokenizer, ranks = load_tokenizer("embedded"), []
    for rank in range(world):
        iterator = iter(TrainingBatches(config, tokenizer, rank, world, 8 // world, 1, 0, quarantine))
        ranks.append([next(iterator)[0].samples.ids for _ in range(steps)])
        iterator.close()
    return [sample for parts in zip(*ranks, strict=True) for part in parts for sample in part]


def test_a_bad_sample_is_replaced_inside_its_data_set_and_a_bad_data_set_by_its_kind(config):
    index = open_index(config.data.train)
    order = Order(index, weights_of(config.data.train), config.seed, 8, config.data.shuffle_block)
    steps = order.epoch_size // 8
    places = [place for step in range(steps) for place in order.global_batch(step)]
    found = names(config, steps)
    stood_in = Counter()
    for place, sample in zip(places, found, strict=True):
        shard, row = index.locate(place.sample)
        if shard.dataset != "bad":
            assert sample.split("/")[0] == shard.dataset, "the mixture is exact"
        else:
            stood_in[sample.split("/")[0]] += 1
        if not shard.sample_id(row).split("/")[-1].startswith("b"):
            assert sample == shard.sample_id(row), "a good sample stays"
    assert set(stood_in) == {"good", "mixed"}


def test_replacements_are_drawn_evenly_and_by_place_alone(config):
    index = open_index(config.data.train)
    draw, again = Replacements(index, 0), Replacements(index, 0)
    (first,) = [s for s in range(len(index)) if index.locate(s)[0].dataset == "mixed" and index.locate(s)[1] == 35]
    drawn = [draw(Place(epoch, 0, first), 1) for epoch in range(4000)]
    assert drawn == [again(Place(epoch, 0, first), 1) for epoch in range(4000)]
    counts = np.array(list(Counter(drawn).values()))
    assert len(counts) == 40
    assert ((counts - 100) ** 2 / 100).sum() < 80, "chi-square with 39 degrees of freedom"
    later = {index.locate(draw(Place(epoch, 0, first), 9))[0].dataset for epoch in range(200)}
    assert later == {"good", "mixed", "bad"}
    with pytest.raises(DataError, match="drawn in its place are unusable"):
        draw(Place(0, 0, first), 101)


def test_a_bad_data_set_costs_a_bounded_number_of_reads(config, monkeypatch):
    reads = []
    read = SampleMaker.__call__
    monkeypatch.setattr(SampleMaker, "__call__", lambda self, *args: (reads.append(args), read(self, *args))[1])
    quarantine = Quarantine()
    steps = 26  # two epochs
    wanted = names(config, steps, quarantine=quarantine)
    prefetched = 3 * 8
    assert len(reads) < 4.5 * (len(wanted) + prefetched), "a fifth of the samples costs some ten reads each"
    share = quarantine.bad / quarantine.seen
    assert abs(share - 30 / 104) < 0.05, "replacements that are bad do not count"


def _until_fault(batches):
    with pytest.raises(DataError, match=r"more than data\.max_bad_share=0\.2"):
        yield from batches


def test_each_rank_stops_at_the_same_step_whenever_it_runs(config):
    """The judgement follows from a rank's own data: a slow consumer and a fast one, with more or less prefetched."""

    def last_step(rank: int, prefetch: int) -> int:
        data = config.data.model_copy(update={"max_bad_share": 0.2, "prefetch": prefetch})
        batches = TrainingBatches(config.model_copy(update={"data": data}), tokenizer, rank, 2, 4, 1, 0, Quarantine())
        return sum(1 for _ in _until_fault(iter(batches)))

    tokenizer = load_tokenizer("embedded")
    for rank in (0, 1):
        steps = {last_step(rank, prefetch) for prefetch in (1, 2, 7)}
        assert steps == {49}, "the 50th micro-batch of 4 completes the first 200 samples"
