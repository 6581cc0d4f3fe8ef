"""The statistics of data sets are those of what lies in their shards."""

import json

import pytest

from sclds.cli.main import main
from sclds.data.prepare.embedded import embedded_folder
from sclds.data.prepare.progress import counting
from sclds.data.stats import statistics
from sclds.data.storage.shards import open_index
from sclds.data.tokenizer import load_tokenizer

from .synthetic import caption, clip, picture

BATCH = {"global_size": 2, "max_micro_size": 2, "group_size": 2}


@pytest.fixture
def faulty(make_config):
    """Ten pictures of two sizes, two captions alike, one too long; three of them unusable; and two clips."""
    members = {}
    for k in range(10):
        members[f"{k}.png"] = picture(k, size=(40, 30) if k < 5 else (60, 20))
        members[f"{k}.json"] = caption(
            "the very same words" if k < 2 else f"picture {k} " + "and more " * (9 * (k == 2))
        )
    damaged = bytearray(picture(9, "PNG", (200, 200)))
    damaged[200:400] = bytes(200)
    members["7.png"], members["8.png"], members["9.json"] = b"no picture", bytes(damaged), caption("")
    clips = {"a.webm": clip(6), "a.json": caption("six frames"), "b.webm": clip(9), "b.json": caption("nine frames")}
    return make_config([members], [clips], BATCH, max_text_tokens=12)


def measured(config, row, sample=100):
    index = open_index([config.data.train[row]])
    with counting("opened", None) as advance:
        return statistics(config.data.train[row], index, config, load_tokenizer("embedded"), sample, advance)


def test_pictures(faulty):
    found = measured(faulty, 0)
    assert (found["samples"], found["shards"], found["opened"]) == (10, 1, 10)
    assert found["width"] == {"min": 40, "median": 40, "p95": 200, "max": 200}
    assert found["frames"]["max"] == 1
    assert found["unusable_share"] == 0.3
    assert found["unusable"] == {
        "its image cannot be decoded": 1,
        "its image or video cannot be decoded": 1,
        "its caption is empty": 1,
    }
    assert found["repeated_caption_share"] == pytest.approx(2 / 8)
    assert found["cut_share"] == pytest.approx(1 / 8)
    assert found["bytes"] > 5000


def test_clips(faulty):
    found = measured(faulty, 1)
    assert found["frames"] == {"min": 6, "median": 6, "p95": 9, "max": 9}
    assert found["width"]["max"] == 32
    assert found["unusable"] == {}


def test_a_sample_is_drawn_by_key(faulty):
    assert measured(faulty, 0, 4) == measured(faulty, 0, 4)
    assert measured(faulty, 0, 4)["opened"] == 4
    assert measured(faulty, 0, 4)["samples"] == 10


def test_all_captions_of_a_sample_count(make_config):
    texts = {"captions": ["one", "two words", "two words"]}
    config = make_config([{"a.png": picture(1), "a.json": json.dumps(texts).encode()}], [], BATCH)
    found = measured(config, 0)
    assert found["captions_per_sample"]["max"] == 3
    assert found["repeated_caption_share"] == pytest.approx(2 / 3)


def test_the_command_prints_json_and_a_table(capsys):
    line = ["data", "stats", "--config", "configs/quickstart.yaml", "--sample", "20"]
    assert main([*line, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    names = ("images-train", "clips-train", "images-heldout", "clips-heldout")
    counts = json.loads((embedded_folder("images-train").parent / "MANIFEST.json").read_text())["samples"]
    assert [one["samples"] for one in found["data_sets"].values()] == [counts[name] for name in names]
    assert found["data_sets"]["clips-heldout"]["role"] == "heldout"
    assert main(line) == 0
    printed = capsys.readouterr().out
    assert all(part in printed for part in ("pictures-heldout", "6,000", "captions cut", "max_text_tokens=32"))


def test_an_empty_sample_is_refused(capsys):
    assert main(["data", "stats", "--config", "configs/quickstart.yaml", "--sample", "0"]) == 2
    assert "--sample is 0: give at least 1" in capsys.readouterr().err


@pytest.mark.parametrize(("spare", "cut"), [(0, 0.0), (-1, 0.5)])
def test_a_caption_that_just_fits_is_not_cut(make_config, spare, cut):
    fits, short = "a caption of some words", "word"
    members = {f"{k}.png": picture(k) for k in range(2)} | {"0.json": caption(fits), "1.json": caption(short)}
    members = {name: members[name] for name in sorted(members)}
    limit = len(load_tokenizer("embedded").encode(fits, 99)[0]) + spare
    assert measured(make_config([members], [], BATCH, max_text_tokens=limit), 0)["cut_share"] == cut
