"""Results say of which sets and step they are, and results of others are known as such."""

import shutil

import pytest

from sclds.config.reading import load_config
from sclds.evaluation.record import differences, recorded, recorded_start, set_identity

EVERY = {"losses": {"itm": 0.7}, "retrieval": {}, "examples": []}


@pytest.fixture
def config():
    return load_config("quickstart")


def measured(config, value):
    rows = {d.name: {"kind": d.kind, "samples": 4, "losses": {"itm": value}} for d in config.data.heldout}
    return {"losses": {"itm": value}, "retrieval": {}, "examples": [], "sets": rows}


def with_sets(config, *rows):
    return config.model_copy(update={"data": config.data.model_copy(update={"heldout": list(rows)})})


def test_losses_before_and_after_stand_side_by_side(config):
    results = recorded(measured(config, 0.5), config, 400, recorded_start(measured(config, 0.7), config))
    assert results["losses"] == {"final": {"itm": 0.5}, "initial": {"itm": 0.7}}
    assert results["sets"]["clips-heldout"]["losses"] == {"final": {"itm": 0.5}, "initial": {"itm": 0.7}}
    assert results["steps"] == 400
    assert differences(results, config, 400) == []


def test_losses_before_training_of_other_sets_are_dropped(config):
    start = recorded_start(measured(config, 0.7), config)
    start["sets"]["clips-heldout"]["index"] = "other"
    results = recorded(measured(config, 0.5), config, 400, start)
    assert results["losses"] == {"final": {"itm": 0.5}}
    assert "initial" not in results["sets"]["clips-heldout"]["losses"]
    assert results["sets"]["pictures-heldout"]["losses"]["initial"] == {"itm": 0.7}


def test_a_set_of_which_no_sample_can_be_used_is_recorded_too(config):
    found = measured(config, 0.5)
    del found["sets"]["clips-heldout"]
    results = recorded(found, config, 400, {})
    assert results["sets"]["clips-heldout"]["samples"] == 0
    assert differences(results, config, 400) == []


def test_every_difference_is_a_sentence(config):
    results = recorded(measured(config, 0.5), config, 400, {})
    pictures, clips = config.data.heldout
    assert "after step 400, and the run is at step 401" in differences(results, config, 401)[0]
    [told] = differences(results, with_sets(config, pictures), 400)
    assert told == "they are of pictures-heldout, clips-heldout, and the run's held-out sets are pictures-heldout"
    other = pictures.model_copy(update={"shards": clips.shards, "kind": "video"})
    assert differences(results, with_sets(config, other, clips), 400) == [
        "the samples of pictures-heldout have changed since they were measured"
    ]
    fewer = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"max_samples": 5})})
    assert differences(results, fewer, 400) == ["evaluation.max_samples was 1000 and is 5"]
    del results["evaluation"]
    assert "did not record" in differences(results, config, 400)[0]
    assert differences({"losses": {}}, config, 400) == []


def test_a_set_is_the_same_wherever_it_lies_and_whether_or_not_it_is_indexed(config, tmp_path):
    from importlib.resources import files

    clips = config.data.heldout[1]
    shutil.copytree(files("sclds.data") / "embedded" / "clips-heldout", tmp_path / "moved")
    (tmp_path / "moved" / "00000.tar").touch()
    moved = clips.model_copy(update={"shards": str(tmp_path / "moved")})
    for index in (tmp_path / "moved").glob("*.idx*"):
        index.unlink()
    assert set_identity(moved, config) == set_identity(clips, config)
