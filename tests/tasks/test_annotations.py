"""Annotated shards: what is read, counted, named and refused."""

import json
import zlib

import pytest

from sclds.config.errors import DataError
from sclds.config.reading import parse_config
from sclds.data.storage.tar_members import CHECKSUMS
from sclds.tasks import task_of
from sclds.tasks.annotations import (
    annotation_problems,
    classes_of,
    count_classes,
    open_examples,
    shared_images,
    write_classes,
)
from tests.data.synthetic import picture, write_tar
from tests.train.synthetic import tiny_config


def question(number, text="what is it?", answers=("cat",) * 10):
    return {"question_id": number, "question": text, "answer": answers[0], "answers": list(answers)}


def vqa_members(images):
    """Return the members of a shard: by key its questions."""
    members = {}
    for number, (key, questions) in enumerate(images.items()):
        members[f"{key}.png"] = picture(number)
        members[f"{key}.vqa.json"] = json.dumps({"image_id": number, "questions": questions}).encode()
    return members


def config_of(tmp_path, name="vqa", heldout=False, **task):
    tree = tiny_config().model_dump(mode="json")
    tree["run_dir"] = str(tmp_path / "run")
    tree["data"]["train"] = [{"name": "train", "shards": str(tmp_path / "train")}]
    tree["data"]["heldout"] = [{"name": "val", "shards": str(tmp_path / "val")}] if heldout else []
    for section in ("losses", "evaluation"):
        del tree[section]
    return parse_config(tree | {"task": {"name": name, **task}})


def test_classes_are_the_frequent_answers_of_training(tmp_path):
    said = ["Cat.", "cat", "the cat", "dog", "Two", "2"]
    images = {f"i{n}": [question(n, answers=(answer,) * 10)] for n, answer in enumerate(said)}
    write_tar(tmp_path / "train" / "0.tar", vqa_members(images))
    assert count_classes(config_of(tmp_path, min_answer_count=2)) == ("cat", "2")
    config = config_of(tmp_path, min_answer_count=1)
    assert count_classes(config) == ("cat", "2", "dog")
    write_classes(config)
    assert classes_of(config) == ("cat", "2", "dog")
    with pytest.raises(
        DataError, match=r"task\.min_answer_count=9 training questions \(the most frequent, 'cat', to 3\)"
    ):
        count_classes(config_of(tmp_path))
    (tmp_path / "run" / "answers.json").write_text("{")
    with pytest.raises(DataError, match="it holds the answers that the run has learned"):
        classes_of(config)


@pytest.mark.parametrize(
    ("together", "expected"),
    [
        (1, [[1], [2], [3], [5], [6]]),
        (2, [[1, 2], [3], [5], [6]]),
        (3, [[1, 2, 3], [5], [6]]),
        (9, [[1, 2, 3], [5], [6]]),
    ],
)
def test_a_sample_is_an_image_with_some_of_its_questions(tmp_path, together, expected):
    """Only usable ones are asked: the fourth has no class."""
    rare = question(4, answers=("fish",) * 10)
    images = {"a": [question(1), question(2), rare, question(3)], "b": [rare], "c": [question(5)], "d": [question(6)]}
    write_tar(tmp_path / "train" / "0.tar", vqa_members(images))
    config = config_of(tmp_path, min_answer_count=3, questions_per_image=together)
    write_classes(config)
    found = open_examples(config, config.data.train, learns=True)
    assert [[int(one.example_id) for one in examples] for examples in found.examples] == expected
    names = [found.index.locate(number)[0].sample_id(row) for number, row in enumerate(range(len(found.index)))]
    assert [name.rpartition(":")[2] for name in names] == [str(first) for first, *_ in expected]


def test_what_cannot_be_used_is_counted_and_named(tmp_path):
    members = vqa_members(
        {
            "good": [question(1), question(2, answers=("cat",) * 3 + ("dog",) * 7)],
            "odd": [question(1), question(3, answers=("fish",) * 10)],
            "damaged": [{"question": "no id"}],
        }
    )
    members |= {"lost.vqa.json": json.dumps({"questions": [question(4)]}).encode()}
    members |= {"broken.png": picture(9), "broken.vqa.json": b"{", "alone.png": picture(8)}
    write_tar(tmp_path / "train" / "0.tar", members)
    config = config_of(tmp_path, min_answer_count=2)
    write_classes(config)
    examples = open_examples(config, config.data.train, learns=True)
    assert [one.example_id for (one,) in examples.examples] == ["1", "2"]
    [second] = examples.examples[1]
    assert dict(second.target) == {0: 9}
    [line] = examples.sentences()
    for told in (
        "1: its id stands there twice (the first: 1)",
        "1: no answer to learn: it has none, or none that is a class (the first: 3)",
        "1: its image is missing (the first: lost)",
        "1: its annotation is no JSON (the first: broken)",
        "1: it has no annotation (.vqa.json) (the first: alone)",
        "1: one of its questions is not of the expected form ('question_id' is missing) (the first: damaged)",
    ):
        assert told in line
    assert examples.index.locate(1)[0].sample_id(1) == "train/0/good:2"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"question": None}, "one of its questions is not of the expected form ('question' is no text)"),
        ({"question": " "}, "('question' is no text)"),
        ({"question": 5}, "('question' is no text)"),
        ({"question_id": None}, "('question_id' is neither a number nor a text)"),
        ({"question_id": [1]}, "('question_id' is neither a number nor a text)"),
        ({"question_id": "\ud83d"}, "('question_id' is neither a number nor a text)"),
        ({"answers": "cat"}, "('answers' is no list of texts)"),
        ({"answers": ["cat", 1]}, "('answers' is no list of texts)"),
        ({"answers": ["\ud83d"] * 10, "answer": "\ud83d"}, "('answers' is no list of texts)"),
        ({"answer_type": ["other"]}, "('answer_type' is no text)"),
        ({"answer_type": 5}, "('answer_type' is no text)"),
    ],
)
def test_a_question_of_another_form_leaves_the_others_of_its_image(change, told, tmp_path):
    odd = question(2) | {"answer_type": "other"} | change
    members = vqa_members({"a": [question(1), odd, question(3)], "b": [question(4)]})
    write_tar(tmp_path / "train" / "0.tar", members)
    config = config_of(tmp_path, min_answer_count=1)
    write_classes(config)
    assert classes_of(config) == ("cat",)
    found = open_examples(config, config.data.train, learns=False)
    assert [one.example_id for (one,) in found.examples] == ["1", "3", "4"]
    [line] = found.sentences()
    assert f"1: one of its questions is not of the expected form {told[told.index('(') :]} (the first: a)" in line


@pytest.mark.parametrize("record", [None, 5, [], "x", {}, {"questions": None}, {"questions": "abc"}, {"questions": 3}])
def test_an_annotation_of_another_form_is_left_out(record, tmp_path):
    members = vqa_members({"a": [question(1)], "b": [question(4)]}) | {"a.vqa.json": json.dumps(record).encode()}
    write_tar(tmp_path / "train" / "0.tar", members)
    config = config_of(tmp_path, min_answer_count=1)
    write_classes(config)
    [line] = open_examples(config, config.data.train, learns=True).sentences()
    assert "1: its annotation is not of the expected form (it has no list of 'questions') (the first: a)" in line


def test_statements_of_another_form_leave_the_others(tmp_path):
    said = [{"identifier": str(n), "sentence": "Two dogs.", "label": "neutral"} for n in range(6)]
    said[1]["sentence"], said[2]["identifier"], said[3]["label"], said[4] = None, 1.5, ["neutral"], "no object"
    write_tar(
        tmp_path / "train" / "0.tar", {"a.png": picture(1), "a.ve.json": json.dumps({"statements": said}).encode()}
    )
    config = config_of(tmp_path, "snli_ve")
    found = open_examples(config, config.data.train, learns=True)
    assert [one.example_id for (one,) in found.examples] == ["0", "5"]
    for told in ("('sentence' is no text)", "('identifier' is neither a", "its label is none of", "(no JSON object)"):
        assert told in found.sentences()[0]


def test_held_out_questions_of_unknown_answers_are_measured(tmp_path):
    write_tar(tmp_path / "train" / "0.tar", vqa_members({"a": [question(1)], "b": [question(2)]}))
    write_tar(tmp_path / "val" / "0.tar", vqa_members({"b": [question(3, answers=("fish",) * 10)]}))
    config = config_of(tmp_path, heldout=True, min_answer_count=1)
    write_classes(config)
    train, heldout = (
        open_examples(config, d, learns=d is config.data.train) for d in (config.data.train, config.data.heldout)
    )
    assert [one.target for (one,) in heldout.examples] == [()]
    [told] = shared_images(train, heldout)
    assert "1 images of 'val', the first b, are in 'train' too (1 by name, 0 by content)" in told


@pytest.mark.parametrize(("noted", "told"), [(True, "3 images of 'val', the first a, are"), (False, "1 images of")])
def test_images_of_both_are_found_by_content_where_checksums_are_noted(noted, told, tmp_path):
    """Under other names in other shards; by name alone where `sclds prepare` has not noted what is in them."""
    splits = {"train": {"x": 1, "y": 2, "c": 3, "z": 4}, "val": {"a": 4, "b": 2, "c": 5, "d": 6}}
    for split, pictures in splits.items():
        members = {}
        for number, (key, seed) in enumerate(pictures.items()):
            content = picture(seed)
            record = {"questions": [question(number)]} | ({CHECKSUMS: [zlib.crc32(content)]} if noted else {})
            members |= {f"{key}.png": content, f"{key}.vqa.json": json.dumps(record).encode()}
        write_tar(tmp_path / split / "0.tar", members)
    config = config_of(tmp_path, heldout=True, min_answer_count=1)
    write_classes(config)
    train, heldout = (open_examples(config, data, learns=False) for data in (config.data.train, config.data.heldout))
    [found] = shared_images(train, heldout)
    assert found.startswith(told)
    assert f"are in 'train' too (1 by name, {2 if noted else 0} by content)" in found


@pytest.mark.parametrize("noted", [None, 7, "x", [], [1, 2], ["1"], [True], [None], [1.5], {"a": 1}])
def test_checksums_of_another_form_are_none(noted, tmp_path):
    for split in ("train", "val"):
        record = {"questions": [question(1)], CHECKSUMS: noted}
        write_tar(
            tmp_path / split / "0.tar", {f"{split}.png": picture(1), f"{split}.vqa.json": json.dumps(record).encode()}
        )
    config = config_of(tmp_path, heldout=True, min_answer_count=1)
    write_classes(config)
    train, heldout = (open_examples(config, data, learns=False) for data in (config.data.train, config.data.heldout))
    assert len(train.examples) == len(heldout.examples) == 1
    assert shared_images(train, heldout) == []


def test_nothing_left_is_refused(tmp_path):
    write_tar(tmp_path / "train" / "0.tar", {"a.vqa.json": json.dumps({"questions": [question(1)]}).encode()})
    config = config_of(tmp_path, min_answer_count=1)
    write_classes(config)
    with pytest.raises(DataError, match=r"nothing of data set 'train' .* its image is missing \(the first: a\)"):
        open_examples(config, config.data.train, learns=True)


def test_shards_of_something_else_are_refused(tmp_path):
    write_tar(tmp_path / "train" / "0.tar", {"a.png": picture(1), "a.json": b'{"caption": "a cat"}'})
    config = config_of(tmp_path)
    [told] = annotation_problems(task_of(config), config.data, config.data.train)
    assert "holds no .vqa.json, which task.name=vqa reads" in told
    (tmp_path / "train" / "0.tar").write_bytes(b"no tar" * 100)
    [told] = annotation_problems(task_of(config), config.data, config.data.train)
    assert "cannot be read" in told
    (tmp_path / "train" / "0.tar").unlink()
    [told] = annotation_problems(task_of(config), config.data, config.data.train)
    assert "has no .tar; write its shards with `sclds prepare`" in told


def test_pairs_and_labels(tmp_path):
    def said(number, label):
        return {"identifier": f"dev-1-{number}-0", "sentence": "Two dogs.", "label": label}

    members = {}
    for number, statements in enumerate(([said(0, True), said(1, "maybe")], [said(2, False)])):
        members[f"p{number}.left.png"], members[f"p{number}.right.png"] = picture(number), picture(number + 5)
        members[f"p{number}.nlvr2.json"] = json.dumps({"statements": statements}).encode()
    members |= {"p2.left.png": picture(3), "p2.nlvr2.json": json.dumps({"statements": [said(3, True)]}).encode()}
    write_tar(tmp_path / "train" / "0.tar", members)
    config = config_of(tmp_path, "nlvr2")
    examples = open_examples(config, config.data.train, learns=True)
    assert [one.target for (one,) in examples.examples] == [((1, 10),), ((0, 10),)]
    assert "1: its label is none of False, True (the first: p0)" in examples.sentences()[0]
    assert "1: one of its images is missing (the first: p2)" in examples.sentences()[0]
