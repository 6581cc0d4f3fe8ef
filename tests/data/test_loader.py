"""Batches follow from the configuration and the step alone, and unusable samples are set aside, not fatal."""

import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from sclds.batch.unpacking import sample_of
from sclds.config.errors import DataError
from sclds.data.loader import Quarantine, TrainingBatches, heldout_batches
from sclds.data.quarantine import read_quarantine
from sclds.data.tokenizer import load_tokenizer
from sclds.objectives import Read
from tests.batch.leaves import assert_equal_batches

from .synthetic import caption, clip, image_members, picture

BATCH = {"global_size": 8, "max_micro_size": 8, "group_size": 2}


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("embedded")


def clip_members(keys):
    moving = clip(6)
    return {name: part for k in keys for name, part in ((f"{k}.webm", moving), (f"{k}.json", caption(f"clip {k}")))}


@pytest.fixture
def config(make_config):
    images = [image_members([f"{s}{k}" for k in range(9)]) for s in "abc"]
    return make_config(images, [clip_members(["u", "v", "w"])], BATCH, augmentation="shift")


def batches(config, tokenizer, steps, rank=0, world=1, micro=8, accumulation=1, start=0, quarantine=None):
    iterator = iter(TrainingBatches(config, tokenizer, rank, world, micro, accumulation, start, quarantine))
    found = [next(iterator) for _ in range(steps)]
    iterator.close()
    return found


def test_a_run_that_resumes_sees_the_same_batches(config, tokenizer):
    whole = batches(config, tokenizer, 7)
    for (one,), (again,) in zip(whole[4:], batches(config, tokenizer, 3, start=4), strict=True):
        assert_equal_batches(one, again)
    assert whole[0][0].samples.ids != whole[4][0].samples.ids


@pytest.mark.parametrize("world", [1, 2, 4])
def test_every_world_size_computes_the_same_global_batch(config, tokenizer, world):
    (((whole,),),) = [batches(config, tokenizer, 1)]
    micro = 2
    accumulation = 8 // world // micro
    ranks = [batches(config, tokenizer, 1, rank, world, micro, accumulation)[0] for rank in range(world)]
    parts = [ranks[rank][a] for a in range(accumulation) for rank in range(world)]
    assert sum((part.samples.ids for part in parts), ()) == whole.samples.ids
    assert torch.equal(torch.cat([part.labels.itm for part in parts]), whole.labels.itm)
    assert torch.equal(torch.cat([part.labels.mlm for part in parts]), whole.labels.mlm)
    assert torch.equal(torch.cat([part.vision.patches for part in parts]), whole.vision.patches)
    assert whole.labels.itm.sum() == 4


def test_a_shuffled_layout_packs_the_same_samples_in_another_order(config, tokenizer):
    shuffled = config.model_copy(update={"batch": config.batch.model_copy(update={"layout": "shuffled"})})
    found, wanted = (batches(c, tokenizer, 3) for c in (shuffled, config))
    for [one], [other] in zip(found, wanted, strict=True):
        assert one.samples.ids == other.samples.ids
        assert sorted(one.samples.order) == sorted(other.samples.order)
        assert one.samples.order != other.samples.order
        assert torch.equal(one.labels.mlm, other.labels.mlm)
        words = [b.text.ids[b.pairs.text_rows[b.reads.text_rows[b.reads.places[MLM]]]] for b in (one, other)]
        assert torch.equal(*words)
    assert_equal_batches(found[2][0], batches(shuffled, tokenizer, 1, start=2)[0][0])


def test_economy_predicts_the_words_that_completion_hides(config, tokenizer):
    economy = config.model_copy(update={"losses": config.losses.model_copy(update={"mlm_view": "t2", "mltc_text": 1})})
    [[batch]] = batches(economy, tokenizer, 1)
    assert (batch.text.names, batch.pairs.names) == (("t0", "t2"), ("mvsc", "mlsc", "itm"))
    places = batch.pairs.text_rows[batch.reads.text_rows[batch.reads.places[ECONOMY_MLM]]]
    assert (batch.text.ids[places] == tokenizer.mask_id).all()
    complete = batch.text.ids[places - batch.lengths.text_cu_seqlens[len(batch.samples.order)]]
    assert torch.equal(complete, batch.labels.mlm)
    completed = batch.reads.places[Read("mlsc", "text", "completed")]
    assert torch.equal(places, batch.pairs.text_rows[batch.reads.text_rows[completed]])


def test_pictures_change_from_epoch_to_epoch(config, tokenizer):
    seen: dict[str, list[torch.Tensor]] = {}
    for (batch,) in batches(config, tokenizer, 8):
        rows = batch.vision.patches.split([16 * frames for frames in batch.samples.frames])
        for sample, part in zip(batch.samples.ids, rows, strict=True):
            seen.setdefault(sample, []).append(part)
    twice = [parts for parts in seen.values() if len(parts) > 1]
    assert len(twice) > 20
    assert any(not torch.equal(parts[0], parts[1]) for parts in twice)


def test_the_thread_ends_with_its_iterator(config, tokenizer):
    iterator = iter(TrainingBatches(config, tokenizer, 0, 1, 8, 1))
    next(iterator)
    assert any(thread.name == "decode-ahead" for thread in threading.enumerate())
    del iterator
    assert not any(thread.name == "decode-ahead" for thread in threading.enumerate())


def faulty(make_config, good=60, **data):
    images = image_members([f"{k:02d}" for k in range(good)])
    damaged = bytearray(picture(9, "PNG", (200, 200)))
    damaged[200:400] = bytes(200)
    images |= {"half.png": picture(1)[:-40], "half.json": caption("half a picture")}
    images |= {"worm.png": bytes(damaged), "worm.json": caption("a worm in the apple")}
    images |= {"mute.png": picture(1), "mute.json": caption("")}
    images |= {"odd.png": picture(1), "odd.txt": b"\xff\xff"}
    clips = clip_members(["u", "v", "w"]) | {"none.webm": clip(3)[:120], "none.json": caption("no frames")}
    return make_config([images], [clips], BATCH, **data)


MLM, ECONOMY_MLM = Read("mlm", "text", "predicted"), Read("mlsc", "text", "predicted")
BAD = {"pictures/00000/half", "pictures/00000/worm", "pictures/00000/mute", "pictures/00000/odd", "clips/00000/none"}


def test_unusable_samples_are_named_and_replaced_by_their_kind(make_config, tokenizer, tmp_path):
    config = faulty(make_config, max_bad_share=0.5)
    quarantine = Quarantine(tmp_path / "run" / "quarantine.jsonl")
    found = batches(config, tokenizer, 9, quarantine=quarantine)
    order = TrainingBatches(config, tokenizer, 0, 1, 8, 1)
    for step, (batch,) in enumerate(found):
        assert not BAD & set(batch.samples.ids)
        places = order.order.global_batch(step)
        assert batch.samples.kinds == tuple(order.index.kind(place.sample) for place in places)
    lines = [json.loads(line) for line in (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()]
    assert {line["sample"] for line in lines} == BAD
    assert all(line.keys() == {"sample", "shard", "dataset", "reason", "step"} for line in lines)
    assert len(lines) == len(BAD), "each is named once, however often it is wanted"
    assert quarantine.seen >= 72
    assert quarantine.bad > len(lines)
    for (one,), (again,) in zip(found, batches(config, tokenizer, 9), strict=True):
        assert_equal_batches(one, again)


def test_a_run_stops_when_too_much_is_unusable(make_config, tokenizer, tmp_path):
    config = faulty(make_config, good=20, max_bad_share=0.05)
    quarantine = Quarantine(tmp_path / "quarantine.jsonl")
    told = r"are unusable, more than data\.max_bad_share=0\.05.*quarantine\.jsonl, the last one is \S+ \(.+\)"
    with pytest.raises(DataError, match=told):
        batches(config, tokenizer, 60, quarantine=quarantine)
    assert quarantine.seen >= 200


def test_a_kind_without_a_usable_sample_ends_the_run(make_config, tokenizer):
    images = {f"{k}.png": b"no picture" for k in range(4)} | {f"{k}.json": caption("words") for k in range(4)}
    config = make_config([images], [], BATCH, max_bad_share=1.0)
    with pytest.raises(DataError, match="drawn in its place are unusable"):
        batches(config, tokenizer, 1)


def test_heldout_batches_are_the_same_each_time(make_config, tokenizer):
    config = faulty(make_config, good=7)
    data = config.data.model_copy(update={"heldout": config.data.train, "train": config.data.train[:1]})
    config = config.model_copy(update={"data": data})
    first, second = (list(heldout_batches(config, tokenizer, batch_size=4)) for _ in range(2))
    for one, again in zip(first, second, strict=True):
        assert_equal_batches(one, again)
    ids = [sample for batch in first for sample in batch.samples.ids]
    assert len(ids) == len(set(ids)) == 7 + 3
    assert not BAD & set(ids)
    (clips,) = heldout_batches(config, tokenizer, data.heldout[1], 4)
    assert clips.samples.ids == ("clips/00000/u", "clips/00000/v", "clips/00000/w")
    assert clips.samples.captions[0] == "clip u"


def test_one_of_several_captions_is_drawn_by_key(make_config, tokenizer):
    texts = [f"caption {k}" for k in range(5)]
    members = {}
    for k in range(16):
        members |= {f"{k}.png": picture(k), f"{k}.json": json.dumps({"caption": "no", "captions": texts}).encode()}
    config = make_config([members], [], BATCH)
    epochs = batches(config, tokenizer, 4)
    drawn = [dict(zip(b.samples.ids, b.samples.captions, strict=True)) for (b,) in epochs]
    first, second = drawn[0] | drawn[1], drawn[2] | drawn[3]
    assert set(first.values()) == set(texts)
    assert sum(first[key] != second[key] for key in first) > 4
    again = batches(config, tokenizer, 1, rank=1, world=2, micro=4)[0][0]
    assert {key: first[key] for key in again.samples.ids} == dict(
        zip(again.samples.ids, again.samples.captions, strict=True)
    )
    heldout = heldout_batches(config, tokenizer, config.data.train[0])
    assert {caption for batch in heldout for caption in batch.samples.captions} == {texts[0]}


@pytest.mark.parametrize("duplicates", ["negatives", "ignore"])
def test_itm_never_shows_a_wrong_image_that_is_right_or_that_its_kind_betrays(make_config, tokenizer, duplicates):
    """Captions a and A of three images each, one image stored under two names, and a video alone in its group."""
    images = {f"{k}.png": picture(min(k, 6)) for k in range(8)}
    images |= {f"{k}.json": caption({0: "arrow", 1: " ARROW.", 2: "Arrow"}.get(k, f"image {k}")) for k in range(8)}
    config = make_config([images], [clip_members(["u"])], {"global_size": 8, "max_micro_size": 8, "group_size": 8})
    losses = config.losses.model_copy(update={"duplicates": duplicates})
    config = config.model_copy(update={"losses": losses})
    wrong, alone = set(), 0
    for (batch,) in batches(config, tokenizer, 60):
        seen = [sample_of(batch, row, config) for row in range(8)]
        pairs = [(one.sample_id, seen[one.itm_partner].sample_id) for one in seen if one.itm_partner is not None]
        wrong |= {(own[-1], shown[-1]) for own, shown in pairs if own != shown}
        videos = batch.samples.kinds.count("video")
        assert batch.counts.itm_alone == videos, "a video has no other, or itself twice"
        assert [int(label) for label in batch.labels.itm] == [own == shown for own, shown in pairs]
        alone += batch.counts.itm_alone
        assert (batch.identities is None) == (duplicates == "negatives")
        if batch.identities is not None:
            rows = {one.sample_id[-1]: row for row, one in enumerate(seen)}
            caption_of, image_of = batch.identities.caption.tolist(), batch.identities.image.tolist()
            assert len({caption_of[row] for key, row in rows.items() if key in "012"}) <= 1
            assert len({image_of[row] for key, row in rows.items() if key in "67"}) <= 1
            assert len(set(image_of)) == len(rows) - {"6", "7"}.issubset(rows)
    assert alone, "a video was alone in its group"
    same = {pair for keys in ("012", "67") for pair in itertools.permutations(keys, 2)}
    assert not any("u" in pair for pair in wrong), "a text of an image beside a video, or the other way round"
    assert (same <= wrong) if duplicates == "negatives" else not same & wrong


def test_a_process_of_its_own_makes_the_same_batches(config, tokenizer):
    """Bit for bit, views of one block of memory without a name; the process ends with the iterator."""
    expected = batches(config, tokenizer, 3)
    training = TrainingBatches(config, tokenizer, 0, 1, 8, 1, own_process=True)
    apart = iter(training)
    found = [next(apart) for _ in range(3)]
    assert not training.order._blocks, "samples are shuffled there, too"
    (maker,) = multiprocessing.active_children()
    apart.close()
    assert not maker.is_alive()
    for (one,), (other,) in zip(found, expected, strict=True):
        assert_equal_batches(one, other)


def test_its_user_errors_are_raised_here(make_config, tokenizer, tmp_path):
    config = faulty(make_config, good=20, max_bad_share=0.05)
    quarantine = Quarantine(tmp_path / "quarantine.jsonl")
    apart = iter(TrainingBatches(config, tokenizer, 0, 1, 8, 1, quarantine=quarantine, own_process=True))
    with pytest.raises(DataError, match="are unusable"):
        list(itertools.islice(apart, 200))
    assert read_quarantine(tmp_path / "quarantine.jsonl")


KILLED = """
import multiprocessing, os, sys, time
from sclds.config.reading import load_config
from sclds.data.loader import TrainingBatches
from sclds.data.tokenizer import load_tokenizer
if __name__ == "__main__":
    config = load_config("configs/quickstart.yaml", ["batch.global_size=16"])
    apart = iter(TrainingBatches(config, load_tokenizer("embedded"), 0, 1, 16, 1, own_process=True))
    next(apart)
    print(multiprocessing.active_children()[0].pid, flush=True)
    time.sleep(600)
"""


def test_a_kill_of_the_run_leaves_no_process_and_no_memory_behind(tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONPATH": f"{root}:{root / 'kernels'}"}
    with subprocess.Popen([sys.executable, script], cwd=root, env=environment, stdout=subprocess.PIPE) as run:
        maker = int(run.stdout.readline())
        named = [named_memory(process) for process in (run.pid, maker)]
        run.kill()
    end = time.monotonic() + 60
    while alive(maker) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(maker)
    assert named == [[], []], "shared memory with a name outlives whoever is killed"


def named_memory(process):
    """Return the files of shared memory that a process has mapped."""
    return [line for line in Path(f"/proc/{process}/maps").read_text().splitlines() if "/dev/shm/" in line]


def alive(process):
    """Return whether a process runs; one that only waits to be buried does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0]
    except OSError:
        return False
    return state != "Z"
