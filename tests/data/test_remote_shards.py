"""Shards behind URLs and the cache between: same batches, what vanishes, what is fetched ahead and let go."""

import json
import os
import time

import fsspec
import numpy as np
import pytest

from sclds.config.errors import DataError
from sclds.config.reading import parse_config
from sclds.data.loader import Quarantine, TrainingBatches
from sclds.data.storage.cache import ShardCache
from sclds.data.storage.fetch_ahead import FetchAhead
from sclds.data.storage.shards import BadSampleError, ShardReader, open_index, shard_problems
from sclds.data.tokenizer import load_tokenizer

from .indexed import dataset, everything, prepared, three_shards
from .synthetic import picture


@pytest.fixture
def folder(tmp_path):
    return three_shards(tmp_path / "set")


def test_a_folder_behind_a_url_has_its_index_there(folder, tmp_path):
    system = fsspec.filesystem("memory")
    system.put(str(folder), "/far/", recursive=True)
    (url, *_) = [place for place in ("memory://far/set", "memory://far") if system.glob(place + "/*.tar")]
    cache = ShardCache(tmp_path / "cache", 10**8)
    try:
        (problem,) = shard_problems(dataset(url), cache)
        assert (
            f"has no index (samples.index), which shards behind a URL need; write it with `sclds prepare index {url}"
            in (problem.replace("memory:///", "memory://"))
        )
        prepared(url, work=tmp_path / "work")
        assert shard_problems(dataset(url), cache) == []
        found = everything(open_index([dataset(url)], cache))
        assert found == everything(open_index([dataset(folder)]))
        assert prepared(url, work=tmp_path / "work").read == 0
        system.pipe(f"{url.removeprefix('memory:/')}/00001.tar", (folder / "00000.tar").read_bytes())
        (problem,) = shard_problems(dataset(url), cache)
        assert "changed since the index was written: 00001.tar" in problem
        assert prepared(url, work=tmp_path / "work").read == 1
        assert len(everything(open_index([dataset(url)], cache))) == 10
    finally:
        system.rm("/far", recursive=True)


BATCH = {"global_size": 4, "max_micro_size": 4, "group_size": 2}


def config_of(place, **data):
    rows = [{"name": "set", "shards": str(place)}]
    data = {"train": rows, "tokenizer": "embedded", "image_size": 32, "decode_threads": 1, **data}
    model = {"vision": {"patch_size": 8}}
    return parse_config({"name": "t", "data": {**data, "video_size": 32}, "model": model, "batch": BATCH})


def test_batches_are_the_same_in_place_indexed_and_behind_a_url(folder, tmp_path):
    tokenizer = load_tokenizer("embedded")

    def batches(config):
        iterator = iter(TrainingBatches(config, tokenizer, 0, 1, 4, 1))
        found = [next(iterator)[0] for _ in range(5)]
        iterator.close()
        return [(batch.samples.ids, batch.samples.captions, batch.vision.patches.sum().item()) for batch in found]

    scanned = batches(config_of(folder))
    prepared(folder)
    assert batches(config_of(folder)) == scanned
    far = config_of(f"file://{folder}", cache_dir=str(tmp_path / "cache"), cache_bytes=10**7)
    assert batches(far) == scanned
    assert len(list((tmp_path / "cache").iterdir())) == 3 + 2, "three shards, the index and the lock"


def test_a_cache_too_small_for_a_block_is_refused(folder, tmp_path):
    from sclds.data.storage.shards import data_problems

    prepared(folder)
    far = config_of(f"file://{folder}", cache_dir=str(tmp_path / "cache"), cache_bytes=60_000, shuffle_block=2)
    (problem,) = data_problems(far.data)
    assert "data.cache_bytes=60000 is too small for data.shuffle_block=2" in problem


def test_a_shard_that_vanishes_is_waited_for_and_then_given_up(folder, monkeypatch):
    index, reader, waits = open_index([dataset(folder)]), ShardReader(), []
    hidden = folder / "hidden"
    (folder / "00001.tar").rename(hidden)
    monkeypatch.setattr("sclds.data.storage.reader.time.sleep", waits.append)
    assert reader.media(*index.locate(0)) == picture(0)
    with pytest.raises(BadSampleError, match="its shard cannot be read \\(No such file"):
        reader.media(*index.locate(3))
    assert waits == [0.1, 0.5, 2.0]
    with pytest.raises(BadSampleError):
        reader.captions(*index.locate(4))
    assert len(waits) == 3, "a shard that stayed away is not waited for again"
    hidden.rename(folder / "00001.tar")
    assert reader.media(*index.locate(3)) == picture(0)
    (folder / "00001.tar").rename(hidden)
    reader.close()
    monkeypatch.setattr("sclds.data.storage.reader.time.sleep", lambda seconds: hidden.rename(folder / "00001.tar"))
    assert reader.media(*index.locate(4)) == picture(1), "it came back while it was waited for"


def test_the_samples_of_a_shard_that_vanished_are_set_aside_by_name(folder, tmp_path, monkeypatch):
    tokenizer, config = load_tokenizer("embedded"), config_of(folder, max_bad_share=1.0, shuffle_block=1)
    quarantine = Quarantine(tmp_path / "quarantine.jsonl")
    training = TrainingBatches(config, tokenizer, 0, 1, 4, 1, quarantine=quarantine)
    (folder / "00002.tar").unlink()
    monkeypatch.setattr("sclds.data.storage.reader._RETRY_SECONDS", (0.01,))
    iterator = iter(training)
    batches = [next(iterator)[0] for _ in range(6)]
    iterator.close()
    assert not any("00002" in sample for batch in batches for sample in batch.samples.ids)
    lines = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    assert {line["sample"] for line in lines} == {f"set/00002/{key}" for key in "fghi"}
    assert {line["reason"] for line in lines} == {"its shard cannot be read (No such file or directory)"}
    assert {line["shard"] for line in lines} == {str(folder / "00002.tar")}


def test_what_comes_next_is_fetched_before_it_is_asked_for(folder, tmp_path):
    prepared(folder)
    index = open_index([dataset(f"file://{folder}")], ShardCache(tmp_path / "cache", 10**7))
    ahead = FetchAhead(index.shards)
    ahead.want([2, 0])
    copies = [index.shards[number].cache._path(index.shards[number].file) for number in range(3)]
    deadline = time.monotonic() + 30
    while not (copies[0].exists() and copies[2].exists()) and time.monotonic() < deadline:
        time.sleep(0.01)
    ahead.close()
    assert [path.exists() for path in copies] == [True, False, True]
    in_place = FetchAhead(open_index([dataset(folder)]).shards)
    in_place.want([0, 1, 2])
    in_place.close()


def test_a_reader_lets_go_of_half_of_a_full_cache(folder, tmp_path, monkeypatch):
    prepared(folder)
    most = 2 * max(path.stat().st_size for path in folder.glob("*.tar"))
    cache = ShardCache(tmp_path / "cache", most + 5000)
    index, reader = open_index([dataset(f"file://{folder}")], cache), ShardReader()
    for number in (0, 3, 5, 0, 3, 5):
        reader.media(*index.locate(number))
        assert reader._held <= cache.max_bytes // 2 + 1
    reader.close()
    others = [shard.open() for shard in index.shards[:2]]
    clock = iter(np.arange(0, 1000, 20.0).tolist())
    monkeypatch.setattr("sclds.data.storage.reader.time.sleep", lambda seconds: None)
    monkeypatch.setattr("sclds.data.storage.reader.time.monotonic", lambda: next(clock))
    with pytest.raises(DataError, match=r"all of it is being read; raise data\.cache_bytes"):
        reader.media(index.shards[2], 0)
    for handle in others:
        os.close(handle)


def test_an_unindexed_large_folder_is_told_the_command(folder, caplog, monkeypatch):
    from sclds.data.storage import shards

    open_index([dataset(folder)])
    assert caplog.text == ""
    monkeypatch.setattr(shards, "_MANY_SAMPLES", 5)
    open_index([dataset(folder)])
    assert "data set 'set' has no index: the headers of 3 shards took 0 s" in caplog.text
    assert f"`sclds prepare index {folder}`" in caplog.text


def test_an_index_larger_than_the_cache_is_a_sentence(folder, tmp_path):
    prepared(folder)
    with pytest.raises(DataError, match=r"its index does not fit into the cache .*; raise data\.cache_bytes"):
        open_index([dataset(f"file://{folder}")], ShardCache(tmp_path / "cache", 1000))


def test_a_copy_on_other_storage_is_known_by_its_size(folder):
    prepared(folder)
    entry = open_index([dataset(folder)]).shards[0].file
    assert entry.looks_like(entry.size, "ETag:abc")
    assert not entry.looks_like(entry.size + 1, "ETag:abc")
    assert not entry.looks_like(entry.size, "mtime:1")


def test_a_missing_member_of_a_range_is_an_error(folder):
    (problem,) = shard_problems(dataset(folder / "{00001..00003}.tar"))
    assert problem.startswith(f"shard {folder}/00003.tar of data set 'set' does not exist")
