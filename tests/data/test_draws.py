"""Every draw of the data has a key of its own that names seed, purpose, epoch, repeat and sample; all of them count."""

import hashlib
import json
from collections import Counter
from typing import Any

import numpy as np
import pytest

from sclds.config.reading import parse_config
from sclds.data import keys, loader, samples
from sclds.data.keys import generator, seed_of
from sclds.data.media import inspection
from sclds.data.media.inspection import inspect
from sclds.data.prepare.index import prepare_index
from sclds.data.samples import HELDOUT, SampleMaker
from sclds.data.storage.shards import open_index
from sclds.data.tokenizer import load_tokenizer

from .synthetic import clip, image_members
from .test_loader import batches

PHRASES = (
    "a brown dog",
    "runs over green grass",
    "seventeen gray stones",
    "one more tree",
    "beside the old",
    "red house",
)
BATCH = {"global_size": 8, "max_micro_size": 8, "group_size": 4}
PURPOSES = {"window", "randaugment", "caption", "phrases", "scl_text", "mlm", "scl_vision", "mltc_vision"}
"""What is drawn for an image; for a video `frames` too, and for both the key from which the model draws its dropout."""


@pytest.fixture
def config(make_config):
    texts = {"captions": [", ".join(f"{phrase} number {k}" for phrase in PHRASES) for k in range(5)]}
    images = image_members([f"i{k}" for k in range(8)])
    images |= {name: json.dumps(texts).encode() for name in images if name.endswith(".json")}
    moving = clip(12)
    videos = {
        name: part
        for k in range(4)
        for name, part in ((f"v{k}.webm", moving), (f"v{k}.json", json.dumps(texts).encode()))
    }
    data: dict[str, Any] = {"augmentation": "random_resized_crop", "randaugment_operations": 2, "frames": 4}
    made = make_config([images], [videos], BATCH, **data)
    tree = made.model_dump(mode="json") | {"losses": {"mltc_image": 0.2}}
    for row in tree["data"]["train"]:
        row["phrase_dropout"] = 0.5
    return parse_config(tree)


def drawn(maker, sample, occasion) -> dict[str, Any]:
    """Return what is drawn for a sample, by purpose."""
    views, encoded = maker.views(sample, occasion), maker.encoded(sample, occasion)
    return {
        "window": repr(encoded.window),
        "randaugment": repr(encoded.augmentation),
        "frames": encoded.frames.tolist(),
        "caption": views.caption.split()[-1],
        "phrases": [phrase in views.caption for phrase in PHRASES],
        "scl_text": views.scl_positions.tolist(),
        "mlm": (views.mlm_positions.tolist(), views.text_mlm.tolist()),
        "scl_vision": views.keep.tolist(),
        "mltc_vision": views.replaced.tolist(),
        "dropout": views.dropout_key,
    }


@pytest.fixture
def make_maker(config):
    """Return a function that gives the reader of a run with a seed."""
    tokenizer, index = load_tokenizer("embedded"), open_index(config.data.train)
    return lambda seed=0: SampleMaker(config.model_copy(update={"seed": seed}), tokenizer, index)


def test_each_part_of_the_key_changes_every_draw(config, make_maker):
    """Over four samples each, so that no draw is equal by chance."""
    maker, other_seed = make_maker(), make_maker(seed=1)
    index = open_index(config.data.train)
    for kind, purposes in (
        ("image", PURPOSES | {"dropout"}),
        ("video", PURPOSES | {"dropout", "frames"}),
    ):
        numbers = [number for number in range(12) if index.locate(number)[0].kind == kind][:4]
        one = [drawn(maker, number, (3, 0)) for number in numbers]
        others = {
            "seed": [drawn(other_seed, number, (3, 0)) for number in numbers],
            "epoch": [drawn(maker, number, (4, 0)) for number in numbers],
            "repeat": [drawn(maker, number, (3, 1)) for number in numbers],
            "sample": [*one[1:], one[0]],
        }
        assert one == [drawn(maker, number, (3, 0)) for number in numbers]
        for factor, other in others.items():
            for purpose in purposes:
                values = [[draws[purpose] for draws in found] for found in (one, other)]
                assert values[0] != values[1], f"{purpose} of a {kind} does not depend on the {factor}"


@pytest.mark.parametrize(
    ("indexed", "room", "looks"), [(True, 2**20, ["video"]), (True, 0, ["video"] * 2), (False, 2**20, ["video"] * 2)]
)
def test_a_video_whose_bytes_are_vouched_for_is_looked_at_once(indexed, room, looks, config, monkeypatch, tmp_path):
    """And an image each time."""
    looked = []
    monkeypatch.setattr(inspection, "inspect", lambda *given: looked.append(given[0]) or inspect(*given))
    monkeypatch.setattr(inspection, "_MOST_FRAMES", room)
    if indexed:
        prepare_index(config.data.train[1].shards, "video", 1, tmp_path / "work")
    index = open_index(config.data.train)
    maker = SampleMaker(config, load_tokenizer("embedded"), index)
    numbers = [next(n for n in range(12) if index.locate(n)[0].kind == kind) for kind in ("image", "video")]
    found = [[maker.encoded(number, (epoch, 0)).info for number in numbers] for epoch in range(2)]
    assert sorted(looked) == ["image"] * 2 + looks
    assert found[0] == found[1]


def test_the_key_of_dropout_is_of_no_other_purpose(config, make_maker):
    maker, index = make_maker(seed=5), open_index(config.data.train)
    shard, row = index.locate(2)
    assert maker.views(2, (3, 1)).dropout_key == seed_of(5, "dropout", 3, 1, shard.sample_id(row))


def test_each_of_two_captions_is_drawn(make_config):
    images = image_members(["a"])
    images = {
        n: json.dumps({"captions": ["one", "two"]}).encode() if n.endswith(".json") else c for n, c in images.items()
    }
    config = make_config([images], [], BATCH)
    maker = SampleMaker(config, load_tokenizer("embedded"), open_index(config.data.train))
    assert {maker.views(0, (epoch, 0)).caption for epoch in range(16)} == {"one", "two"}
    assert maker.views(0, HELDOUT).caption == "one"


@pytest.mark.parametrize("duplicates", ["negatives", "ignore", "positives"])
def test_an_image_has_an_identity_where_duplicates_are_told_apart(config, duplicates):
    losses = config.losses.model_copy(update={"duplicates": duplicates})
    index = open_index(config.data.train)
    maker = SampleMaker(config.model_copy(update={"losses": losses}), load_tokenizer("embedded"), index)
    known = {maker(number, (0, 0)).views.image_id for number in range(3)}
    assert (known == {SampleMaker(config, load_tokenizer("embedded"), index).views(0, (0, 0)).image_id}) == (
        duplicates == "negatives"
    )


def test_held_out_samples_have_one_view(make_maker):
    """The first caption, all of it, the whole image and the middle of each segment, whatever the measurement."""
    maker = make_maker()
    for number in range(12):
        views = drawn(maker, number, HELDOUT)
        assert views["caption"] == "0"
        assert all(views["phrases"])
        assert views["window"] == repr(samples.WHOLE)
        assert views["frames"] in ([0], [1, 4, 7, 10])


def test_no_two_draws_of_a_batch_share_a_key(config, monkeypatch):
    """Two purposes on one key would be one draw: which patches v1 keeps would tell which ones v2 replaces."""
    seen: Counter[tuple[Any, ...]] = Counter()

    def recorded(seed, *words):
        seen[seed, *words] += 1
        return generator(seed, *words)

    monkeypatch.setattr(samples, "generator", recorded)
    monkeypatch.setattr(loader, "generator", recorded)
    steps = batches(config, load_tokenizer("embedded"), 4)
    of_samples = [key for key in seen if key[1] != "itm"]
    assert {key[1] for key in of_samples} == PURPOSES | {"frames"}
    assert all(key[0] == config.seed for key in seen)
    assert max(seen.values()) == 1, [key for key, count in seen.items() if count > 1][:5]
    assert len(steps) == 4
    assert seen.keys() >= {(config.seed, "itm", "step", step, group) for step in range(4) for group in range(2)}
    assert all(len(key) == 5 for key in of_samples), "seed, purpose, epoch, repeat, sample"


def test_keys_are_blake2b_of_their_words_with_type_and_length():
    """By its definition, written down apart: a changed key would change every run that goes on."""
    text = b"int1:7;str3:mlm;int1:2;str1:a;"
    assert seed_of(7, "mlm", 2, "a") == int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1
    digest = hashlib.blake2b(text, digest_size=16).digest()
    words = np.frombuffer(digest, np.uint64)
    state = generator(7, "mlm", 2, "a").bit_generator.state["state"]
    assert state["key"].tolist() == words.tolist()
    assert state["counter"].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((0, "a"), (1, "a")),
        ((0, 1), (0, "1")),
        ((0, "ab", "c"), (0, "a", "bc")),
        ((0, "a", 12), (0, "a", 1, 2)),
        ((0, "a;str1:b"), (0, "a", "b")),
        ((0,), (0, "")),
        ((0, "\ud800"), (0, "\ud801")),
    ],
)
def test_different_keys_draw_differently(one, other):
    assert seed_of(*one) != seed_of(*other)
    assert generator(*one).random(4).tolist() != generator(*other).random(4).tolist()
    assert generator(*one).random(4).tolist() == generator(*one).random(4).tolist()


def test_seeds_fit_generators_that_take_a_number():
    assert all(0 <= seed_of(0, word) < 2**63 for word in range(200))
    assert max(seed_of(0, word) for word in range(200)) > 2**61
    assert keys.generator(0).bit_generator.state["bit_generator"] == "Philox"
