"""Whether a run may go on from a checkpoint, also from one that an older version wrote."""

import json

import pytest

from sclds.config import Config, keys_that_may_change
from sclds.config.errors import CheckpointError
from sclds.config.reading import parse_config
from sclds.run.checkpoints import (
    STATE_FILE,
    checkpoint_name,
    checkpoint_of,
    newest_checkpoint,
    read_checkpoint,
    resume_problems,
)
from sclds.run.manifest import record_files, write_manifest


def config(**changes):
    return parse_config({"name": "a", "data": {"train": [{"name": "x", "shards": "y"}]}} | changes)


def written(folder, step=5, settings=None, **changes):
    """Write a checkpoint's state and read it back."""
    place = folder / checkpoint_name(step)
    place.mkdir(parents=True)
    settings = settings or config(**changes).model_dump(mode="json")
    (place / STATE_FILE).write_text(json.dumps({"step": step, "world_size": 1, "config": settings}))
    return read_checkpoint(place)


def test_the_newest_complete_one_is_found(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    for step in (5, 20, 10):
        written(tmp_path, step)
    (tmp_path / checkpoint_name(30)).mkdir()
    (tmp_path / "step-40.tmp").mkdir()
    assert newest_checkpoint(tmp_path).step == 20


def test_a_damaged_newest_one_is_refused_where_a_half_written_one_is_passed_over(tmp_path):
    checkpoints = tmp_path / "checkpoints"
    for step in (5, 10):
        written(checkpoints, step)
    newest = checkpoints / checkpoint_name(10)
    assert checkpoint_of(tmp_path).step == checkpoint_of(newest).step == 10
    for content in ("[1, 2]", "{", '{"step": {}}', "null"):
        (newest / STATE_FILE).write_text(content)
        assert read_checkpoint(newest) is None, content
        assert checkpoint_of(tmp_path).step == 5
        assert checkpoint_of(newest) is None
    write_manifest(newest, {})
    for path in (tmp_path, newest):
        with pytest.raises(CheckpointError, match=r"step-0000010 is damaged: its state\.json cannot be read; take an"):
            checkpoint_of(path)
    assert checkpoint_of(checkpoints / checkpoint_name(5)).step == 5
    (checkpoints / checkpoint_name(5)).rename(checkpoints / checkpoint_name(15))
    assert checkpoint_of(tmp_path).step == 5, "damage behind the newest is no matter"


def test_a_state_that_its_manifest_does_not_vouch_for_is_none(tmp_path):
    """Its settings would be blamed on the user."""
    folder = written(tmp_path).folder
    write_manifest(folder, record_files(folder, [folder / STATE_FILE]))
    assert read_checkpoint(folder).step == 5
    text = (folder / STATE_FILE).read_text()
    (folder / STATE_FILE).write_text(text.replace('"seed": 0', '"seed": 2'))
    assert read_checkpoint(folder) is None


def test_resuming_the_same_run_is_allowed_with_harmless_changes(tmp_path):
    changed = config(
        name="b",
        log={"every": 3},
        checkpoint={"every": 7},
        engine={"attention": "sdpa", "activation_checkpointing": True},
        evaluation={"batch_size": 3},
        data={"train": [{"name": "x", "shards": "y"}], "heldout": [{"name": "z", "shards": "z"}]},
    )
    assert resume_problems(written(tmp_path), changed) == []


def test_every_incompatible_key_is_named(tmp_path):
    changed = config(
        seed=3,
        optimizer={"betas": (0.9, 0.99)},
        engine={"gradient_precision": "bf16"},
        data={"train": [{"name": "x", "shards": "y"}, {"name": "z", "shards": "z"}]},
    )
    problems = resume_problems(written(tmp_path), changed)
    keys = [problem.split("=")[0] for problem in problems]
    added = [f"data.train.1.{key}" for key in ("key_ends", "kind", "name", "phrase_dropout", "shards", "weight")]
    assert keys == [*added, "engine.gradient_precision", "optimizer.betas.1", "seed"]
    assert problems[0].startswith("data.train.1.key_ends=first_dot differs from absent")
    assert all("over with another run_dir" in problem for problem in problems)


def test_a_checkpoint_without_settings_that_were_added_since_resumes(tmp_path):
    """An older version knew neither `losses.mlm_view` nor the `log` section, and `evaluation` had other keys."""
    settings = config().model_dump(mode="json")
    del settings["losses"]["mlm_view"], settings["data"]["max_pixels"], settings["data"]["nvdec"], settings["log"]
    settings["evaluation"] = {"pairs": 10}
    checkpoint = written(tmp_path, settings=settings)
    assert resume_problems(checkpoint, config()) == []
    (problem,) = resume_problems(checkpoint, config(losses={"mlm_view": "t2"}))
    assert problem.startswith("losses.mlm_view=t2 differs from t1")


def test_a_setting_that_is_gone_is_named(tmp_path):
    settings = config().model_dump(mode="json")
    settings["losses"]["triplet"] = 1.0
    (problem,) = resume_problems(written(tmp_path, settings=settings), config())
    assert problem.startswith("losses.triplet: ")
    assert "this version does not have" in problem


def test_what_may_change_stands_on_the_fields():
    keys = keys_that_may_change()
    assert {"run_dir", "log", "evaluation", "engine.attention", "data.heldout", "batch.max_micro_size"} <= set(keys)
    assert not {"seed", "data.train", "data", "model", "batch.global_size", "engine.precision"} & set(keys)
    tree = config().model_dump(mode="json")
    for key in keys:
        value = tree
        for part in key.split("."):
            value = value[part]


@pytest.mark.parametrize("key", keys_that_may_change())
def test_a_marked_setting_is_not_compared(key, tmp_path):
    settings = config().model_dump(mode="json")
    *sections, name = key.split(".")
    place = settings
    for section in sections:
        place = place[section]
    place[name] = "something else"
    assert resume_problems(written(tmp_path, settings=settings), config()) == []
    assert Config.model_validate(config().model_dump(mode="json")) == config()


def test_a_run_of_another_length_is_told_what_becomes_of_its_rate(tmp_path):
    (problem,) = resume_problems(written(tmp_path), config(schedule={"steps": 200_000}))
    assert "schedule.steps=200000 differs from 100000" in problem
    assert "the learning rate is a function of the share of steps done" in problem
    assert "`sclds convert run`, then model.init_from=" in problem
