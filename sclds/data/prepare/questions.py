"""VQAv2, easy-VQA, SNLI-VE and NLVR2: what is asked or said about an image, or about two; no captions, for fine-tuning.

One sample an image, or pair of images, with everything about it in one JSON member.
"""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sclds.config.errors import DataError
from sclds.data.captions import clean_captions
from sclds.data.prepare.lists import json_lines, read_json
from sclds.data.prepare.records import Record, Records, each, key_of

_VQA = {"train": "train2014", "val": "val2014", "test": "test2015"}
NLVR2 = {"train": "train", "val": "dev", "test": "test1"}
_TRUTH = {"true": True, "false": False}


def vqa_files(split: str) -> tuple[str, ...]:
    """Return the names of the questions, of the answers where they are public, and of the folder of images."""
    part = _VQA[split]
    answers = () if split == "test" else (f"v2_mscoco_{part}_annotations.json",)
    return (f"v2_OpenEnded_mscoco_{part}_questions.json", *answers, part)


def read_vqav2(root: Path, split: str) -> Records:
    """Read questions and their ten answers; test questions have none. Images lie in train2014, val2014, test2015."""
    part, files = _VQA[split], vqa_files(split)
    path = root / files[0]
    questions = read_json(path, "VQAv2's questions", "questions")["questions"]
    answers: dict[int, Any] = {}
    if split != "test":
        tree = read_json(root / files[1], "VQAv2's annotations", "annotations")
        answers = {a["question_id"]: a for a in tree["annotations"] if isinstance(a, dict) and "question_id" in a}
    of_image: dict[Any, list[Any]] = defaultdict(list)
    for question in questions:
        of_image[question.get("image_id") if isinstance(question, dict) else None].append(question)

    def make(entry: tuple[Any, list[Any]]) -> Record:
        image, asked = entry
        told, left_out = _usable(asked, lambda question: _question(question, answers))
        file = root / part / f"COCO_{part}_{int(image):012d}.jpg"
        fields = {"image_id": image, "questions": told}
        texts = tuple(q["question"] for q in told)
        return Record(f"COCO_{part}_{int(image):012d}", (("", str(file)),), texts, fields, left_out)

    return Records(each(path, of_image.items(), make), len(of_image))


def _usable(entries: list[Any], make: Callable[[Any], dict[str, Any]]) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Return what is made of the entries that can be used, and for each of the others a clause that says why."""
    told, left_out = [], []
    for entry in entries:
        try:
            told.append(make(entry))
        except (KeyError, TypeError, ValueError, AttributeError) as fault:
            said = f"{fault.args[0]!r} is missing" if isinstance(fault, KeyError) else str(fault)
            left_out.append(f"a question or statement is not of the expected form ({said})")
    if not told:
        raise ValueError(left_out[0])
    return told, tuple(left_out)


def _text(value: Any) -> str:
    """Return a question or statement on one line."""
    text = " ".join(clean_captions(value)[0])
    if not text:
        raise ValueError("no text")
    return text


def _question(entry: Any, answers: dict[int, Any]) -> dict[str, Any]:
    """Return a question with the answers of all annotators, and the one that most gave, where they are known."""
    told = {"question_id": entry["question_id"], "question": _text(entry["question"])}
    if answers:
        known = answers.get(entry["question_id"])
        if known is None:
            raise ValueError("a question without an annotation")
        told["answer"] = known["multiple_choice_answer"]
        told["answers"] = [a["answer"] for a in known["answers"]]
        told["answer_type"], told["question_type"] = known["answer_type"], known["question_type"]
    return told


def read_nlvr2(root: Path, split: str) -> Records:
    """Read a file of JSON lines; images lie in images/train/<directory>, dev and test1, two a statement.

    Raises:
        DataError: The file is not JSON lines.
    """
    part = NLVR2[split]
    path = root / f"{part}.json"
    pairs: dict[str, list[Any]] = defaultdict(list)
    for line, entry in json_lines(path, "NLVR2's JSON lines"):
        if isinstance(entry, ValueError):
            raise DataError(f"{path}, line {line} is not JSON: expected NLVR2's JSON lines; download it again")
        pairs[str(entry.get("identifier", "")).rpartition("-")[0] if isinstance(entry, dict) else ""].append(entry)
    folder = root / "images" / part if (root / "images" / part).is_dir() else root / part

    def make(entry: tuple[str, list[Any]]) -> Record:
        pair, told = entry
        if not pair:
            raise KeyError("identifier")
        place = folder / str(next(s["directory"] for s in told if "directory" in s)) if part == "train" else folder
        files = tuple((role, str(place / f"{pair}-img{k}.png")) for k, role in enumerate(("left", "right")))
        statements, left_out = _usable(told, _statement)
        texts = tuple(s["sentence"] for s in statements)
        return Record(key_of(pair), files, texts, {"statements": statements}, left_out)

    return Records(each(path, pairs.items(), make), len(pairs))


def _statement(entry: Any) -> dict[str, Any]:
    truth = str(entry["label"]).lower()
    if truth not in _TRUTH:
        raise ValueError("a label that is neither True nor False")
    return {
        "identifier": entry["identifier"],
        "sentence": _text(entry["sentence"]),
        "label": _TRUTH[truth],
    }


EASY_VQA = {split: f"easy_vqa/data/{split}" for split in ("train", "test")}
"""Folders of the Python package easy-vqa, as it unpacks."""


def read_easy_vqa(root: Path, split: str) -> Records:
    """Read easy-VQA's lists of [question, answer, number of the image]; a question has one answer."""
    folder = root / EASY_VQA[split]
    path = folder / "questions.json"
    of_image: dict[Any, list[Any]] = defaultdict(list)
    listed = read_json(path, "easy-VQA's list of questions")
    if not isinstance(listed, list):
        raise DataError(f"{path} holds no list: expected easy-VQA's questions; fetch the package again")
    for number, entry in enumerate(listed):
        image = entry[2] if isinstance(entry, list) and len(entry) == 3 else None
        of_image[image].append((number, entry))

    def make(entry: tuple[Any, list[Any]]) -> Record:
        image, asked = entry
        told, left_out = _usable(asked, _plain_question)
        file = folder / "images" / f"{int(image)}.png"
        fields = {"image_id": image, "questions": told}
        texts = tuple(question["question"] for question in told)
        return Record(f"{split}-{int(image):04d}", (("", str(file)),), texts, fields, left_out)

    return Records(each(path, of_image.items(), make), len(of_image))


def _plain_question(entry: Any) -> dict[str, Any]:
    number, (question, answer, _) = entry
    told = {"question_id": number, "question": _text(question), "answer": _text(answer)}
    kind = "yes/no" if told["answer"] in ("yes", "no") else "other"
    return told | {"answers": [told["answer"]], "answer_type": kind}


SNLI_VE = {"train": "snli_ve_train.jsonl", "val": "snli_ve_dev.jsonl", "test": "snli_ve_test.jsonl"}
_JUDGEMENTS = frozenset(("entailment", "neutral", "contradiction"))


def read_snli_ve(root: Path, split: str) -> Records:
    """Read a file of JSON lines; images are Flickr30k's, in flickr30k-images.

    Raises:
        DataError: The file is not JSON lines.
    """
    path = root / SNLI_VE[split]
    of_image: dict[str, list[Any]] = defaultdict(list)
    for line, entry in json_lines(path, "SNLI-VE's JSON lines"):
        if isinstance(entry, ValueError):
            raise DataError(f"{path}, line {line} is not JSON: expected SNLI-VE's JSON lines; download it again")
        of_image[str(entry.get("Flickr30K_ID", "")) if isinstance(entry, dict) else ""].append(entry)

    def make(entry: tuple[str, list[Any]]) -> Record:
        image, said = entry
        if not image:
            raise KeyError("Flickr30K_ID")
        statements, left_out = _usable(said, _judgement)
        texts = tuple(s["sentence"] for s in statements)
        file = root / "flickr30k-images" / f"{image}.jpg"
        return Record(key_of(image), (("", str(file)),), texts, {"statements": statements}, left_out)

    return Records(each(path, of_image.items(), make), len(of_image))


def _judgement(entry: Any) -> dict[str, Any]:
    if entry["gold_label"] not in _JUDGEMENTS:
        raise ValueError("a label on which annotators did not agree")
    return {"identifier": entry["pairID"], "sentence": _text(entry["sentence2"]), "label": entry["gold_label"]}
