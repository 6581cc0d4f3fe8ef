"""Metrics against cases worked by hand, and against a library's where one is installed."""

import pytest

from sclds.tasks import TASKS
from sclds.tasks.vqa_accuracy import CONTRACTIONS, accuracy, normalized, soft_score


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The Dog.", "dog"),
        ("a  man\tand\nan apple", "man and apple"),
        ("two", "2"),
        ("None", "0"),
        ("ten", "10"),
        ("eleven", "eleven"),
        ("3.5", "3.5"),
        ("3.5.", "3.5"),
        ("u.s.a.", "usa"),
        ("10,000", "10000"),
        ("black, white", "black white"),
        ("black,white", "black white"),
        ("t-shirt", "t shirt"),
        ("t- shirt", "t shirt"),
        ("yes!", "yes"),
        ("is it?", "is it"),
        ("dont", "don't"),
        ("don't", "don't"),
        ("couldntve", "couldntve"),
        ("couldn'tve", "couldn't've"),
        ("oclock", "o'clock"),
        ("yall'll", "y'all'll"),
        ("somebody'd", "somebodyd"),
        ("9:30", "9:30"),
        ("mid-air/up", "mid air up"),
        ("", ""),
    ],
)
def test_normalization_is_the_official_one(answer, expected):
    """By the tables of the evaluation server's own code: numbers, articles, contractions, periods, punctuation."""
    assert normalized(answer) == expected
    assert normalized(expected) == expected


def test_contractions_of_the_official_table():
    """A sample of rows, as the official table has them; it has no `well`, `were`, `ill`, `id`, which are words."""
    rows = {
        "aint": "ain't",
        "itll": "it'll",
        "whos": "who's",
        "youve": "you've",
        "hed've": "he'd've",
        "he'dve": "he'd've",
    }
    assert {short: CONTRACTIONS[short] for short in rows} == rows
    assert not {"well", "were", "ill", "id", "hell", "shell", "wed"} & set(CONTRACTIONS)
    assert len(CONTRACTIONS) == 114, (
        "of 120 there, two map to themselves and four have capitals, which are never looked up"
    )


@pytest.mark.parametrize(
    ("answer", "given", "expected"),
    [
        # n of ten gave it: leaving one of the n out leaves n - 1, leaving another out leaves n
        ("dog", ["cat"] * 10, 0.0),
        ("dog", ["dog"] + ["cat"] * 9, (1 * 0 + 9 * 1 / 3) / 10),
        ("dog", ["dog"] * 2 + ["cat"] * 8, (2 * 1 / 3 + 8 * 2 / 3) / 10),
        ("dog", ["dog"] * 3 + ["cat"] * 7, (3 * 2 / 3 + 7 * 1) / 10),
        ("dog", ["dog"] * 4 + ["cat"] * 6, 1.0),
        ("dog", ["the dog.", "Dog", "a dog", "dog"] + ["cat"] * 6, 1.0),
        ("two", ["2"] * 5 + ["3"] * 5, 1.0),
        ("the dog", ["the dog"] * 10, 1.0),
        ("dog", ["the dog"] * 10, 0.0),
        ("dog", ["dog"], 1.0),
        ("dog", ["A dog."], 1.0),
        ("dog", ["cat"], 0.0),
    ],
)
def test_accuracy_by_hand(answer, given, expected):
    """Also: answers on which all agree are officially compared as they stand."""
    assert accuracy(answer, given) == pytest.approx(expected)


def test_soft_scores_are_the_published_ones():
    assert [soft_score(n, 10) for n in range(7)] == [0, 3, 6, 9, 10, 10, 10]
    assert soft_score(1, 1) == 10
    for n in range(11):  # and the accuracy of that answer, rounded as published
        assert abs(soft_score(n, 10) / 10 - accuracy("x", ["x"] * n + ["y"] * (10 - n))) < 0.05


def test_figures_of_questions_by_type():
    truths = [((("yes",) * 10), "yes/no"), ((("no",) * 10), "yes/no"), ((("red",) * 10), "other")]
    found = TASKS["vqa"].measure(["yes", "yes", "red"], truths)
    assert {name: (round(one.value, 4), one.n) for name, one in found.items()} == {
        "accuracy": (0.6667, 3),
        "accuracy_yes_no": (0.5, 2),
        "accuracy_other": (1.0, 1),
    }
    assert found["accuracy"].chance == pytest.approx(1 / 3)
    entry = TASKS["vqa"].prediction
    assert entry("42", "red") == {"question_id": 42, "answer": "red"}
    for name in ("own-7", "007", "1_0", "\u0663", "9" * 5000):
        assert entry(name, "red")["question_id"] == name, "ids of own data stay as they are"


def test_consistency_by_hand():
    """Three sentences: right for both pairs, for one of two, and the only pair."""
    truths = [("True", "a"), ("False", "a"), ("True", "b"), ("False", "b"), ("True", "c")]
    found = TASKS["nlvr2"].measure(["True", "False", "True", "True", "True"], truths)
    assert found["accuracy"].value == pytest.approx(4 / 5)
    assert (found["consistency"].value, found["consistency"].n) == (pytest.approx(2 / 3), 3)
    assert found["accuracy"].chance == pytest.approx(3 / 5)


def test_a_sentence_is_what_the_official_metric_takes_for_one():
    """By the identifier without its pair: the same text of another set is another sentence, and counts by itself."""
    said = [
        ("dev-1-0-0", "Two dogs.", True),
        ("dev-1-1-0", "Two dogs.", False),
        ("dev-1-0-1", "Two dogs.", True),
        ("dev-2-0-0", "Two dogs.", True),
    ]
    record = {"statements": [{"identifier": i, "sentence": text, "label": label} for i, text, label in said]}
    task = TASKS["nlvr2"]
    truths = [example.truth for example in task.examples(record, {"False": 0, "True": 1})]
    found = task.measure(["True", "True", "True", "True"], truths)["consistency"]
    assert (found.value, found.n) == (pytest.approx(2 / 3), 3)
    own = [{"identifier": name, "sentence": text, "label": True} for name, text in (("a", "x"), ("b-1", "x"), (3, "y"))]
    truths = [example.truth for example in task.examples({"statements": own}, {"False": 0, "True": 1})]
    assert task.measure(["True"] * 3, truths)["consistency"].n == 2, "of own data the text tells"
