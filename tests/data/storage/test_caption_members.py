"""A part of a sample's captions that is odd costs no other part, and is counted."""

import json

import pytest

from sclds.data.prepare.index import prepare_index
from sclds.data.prepare.progress import counting
from sclds.data.stats import statistics
from sclds.data.storage.reader import BadSampleError, captions_of
from sclds.data.storage.shards import open_index
from sclds.data.tokenizer import load_tokenizer

from ..synthetic import caption, picture

EMPTY, NOT_TEXT = "its caption is empty", "its caption is not text"
UNDECODABLE = "its caption cannot be decoded (UnicodeDecodeError)"
NO_TEXT = "its .json has no text under 'caption', nor a list of texts under 'captions'"


@pytest.mark.parametrize(
    ("text", "record", "kept", "left_out"),
    [
        (None, {"captions": ["a", None, "b", "", "c"]}, ["a", "b", "c"], [NOT_TEXT, EMPTY]),
        (None, {"captions": ["a", 7, ["b"], {"c": "d"}]}, ["a"], [NOT_TEXT] * 3),
        (None, {"captions": ["\u200b\u2060", " \n", "\0", "a"]}, ["a"], [EMPTY] * 3),
        (None, {"captions": [], "caption": "a"}, ["a"], []),
        (None, {"captions": None, "caption": "a"}, ["a"], [NOT_TEXT]),
        (None, {"captions": ["", None], "caption": "a"}, ["a"], [EMPTY, NOT_TEXT]),
        (None, {"captions": "a", "caption": "b"}, ["a"], []),
        (None, {"caption": ["a", None]}, ["a"], [NOT_TEXT]),
        (None, {"captions": ["a", "b"], "caption": None}, ["a", "b"], []),
        (b"", {"caption": "a"}, ["a"], [EMPTY]),
        (b" \n\t", {"captions": ["a"]}, ["a"], [EMPTY]),
        ("\u200b".encode(), {"captions": ["a", None]}, ["a"], [EMPTY, NOT_TEXT]),
        (b"\xff", {"caption": "a"}, ["a"], [UNDECODABLE]),
        (b"a", b"{", ["a"], []),
        (b"a", {"caption": "b"}, ["a"], []),
    ],
)
def test_what_is_there_is_used(text, record, kept, left_out):
    encoded = record if isinstance(record, bytes) else json.dumps(record).encode()
    assert captions_of(text, encoded) == (kept, left_out)


@pytest.mark.parametrize(
    ("text", "record", "reason"),
    [
        (None, None, "it has no caption (.txt, or .json with 'caption')"),
        (b"", None, EMPTY),
        (b"", {"captions": []}, EMPTY),
        (b"\xff", {"caption": None}, UNDECODABLE),
        (None, {"captions": [None, ""]}, EMPTY),
        (None, {"captions": [None]}, NO_TEXT),
        (None, {"captions": []}, NO_TEXT),
        (None, {"captions": {}, "caption": 7}, NO_TEXT),
        (None, "words", NO_TEXT),
    ],
)
def test_where_nothing_is_there_the_sample_says_why(text, record, reason):
    with pytest.raises(BadSampleError) as caught:
        captions_of(text, None if record is None else json.dumps(record).encode())
    assert str(caught.value) == reason


def test_what_is_left_out_is_counted_by_index_and_statistics(make_config, tmp_path):
    members = {}
    for key, text, record in (
        ("a", None, {"captions": ["one", None, "two", "", "three"]}),
        ("b", b" ", {"caption": "four"}),
        ("c", b"five", {"caption": None}),
        ("d", b"", {"caption": ""}),
    ):
        members |= {f"{key}.png": picture(1), f"{key}.json": json.dumps(record).encode()}
        members |= {} if text is None else {f"{key}.txt": text}
    config = make_config([members], [], {"global_size": 2, "max_micro_size": 2, "group_size": 2})
    folder = tmp_path / "pictures"
    (entry,) = prepare_index(str(folder), "image", 1, folder / ".index-parts").index.shards
    assert sorted(map(str, entry.left_out)) == ["1 × caption that is not text (a)", "2 × caption that is empty (a, b)"]
    index, row = open_index(config.data.train), config.data.train[0]
    with counting("opened", None) as advance:
        found = statistics(row, index, config, load_tokenizer("embedded"), 10, advance)
    assert found["captions_left_out"] == {EMPTY: 2, NOT_TEXT: 1}
    assert found["captions_per_sample"]["max"] == 3
    assert found["unusable"] == {EMPTY: 1}
    assert [one["reason"] for one in found["left_out"]] == ["caption that is empty", "caption that is not text"]


def test_an_image_set_of_plain_captions_has_nothing_left_out(make_config, tmp_path):
    make_config([{"a.png": picture(1), "a.json": caption("a")}], [], {"global_size": 2, "group_size": 2})
    folder = tmp_path / "pictures"
    (entry,) = prepare_index(str(folder), "image", 1, folder / ".index-parts").index.shards
    assert entry.left_out == ()
