"""The official accuracy of VQAv2, with its normalization of answers (visualqa.org/evaluation; Antol et al., ICCV 2015).

An answer scores min(1, n / 3) where n of the *other* nine annotators gave it, averaged over the ten ways to leave one
annotator out.
"""

import re
from collections.abc import Sequence

_ONE_APOSTROPHE = (
    "ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's "
    "isn't it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've "
    "shouldn't somebody'll somebody's someone'd someone'll someone's something'd something'll that's there'd there're "
    "there's they'd they'll they're they've 'twas wasn't we've weren't what'll what're what's what've when's where'd "
    "where's where've who'd who'll who's who've why'll why're why's won't would've wouldn't y'all "
    "you'd you'll you're you've"
)
_SEVERAL = (
    "couldn't've hadn't've he'd've it'd've mightn't've 'ow's'at she'd've shouldn't've somebody'd've someone'd've "
    "something'd've there'd've they'd've we'd've who'd've wouldn't've y'all'll y'all'd've you'd've"
)


def _without_one(word: str) -> list[str]:
    return [word[:at] + word[at + 1 :] for at, letter in enumerate(word) if letter == "'"]


CONTRACTIONS = {short: word for word in f"{_ONE_APOSTROPHE} {_SEVERAL}".split() for short in _without_one(word)} | {
    "somebody'd": "somebodyd"
}
"""The official table: a contraction that lacks an apostrophe, and what it becomes; the last one is as it is there."""
NUMBERS = {
    word: str(number) for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
} | {"none": "0"}
ARTICLES = frozenset(("a", "an", "the"))
_PUNCTUATION = tuple(';/[]"{}()=+\\_-><@`,?!')
_PERIOD = re.compile(r"\.(?!\d)")
_DIGIT_COMMA = re.compile(r"\d,\d")
_NEEDED = 3
"""Annotators who make an answer right."""


def normalized(answer: str) -> str:
    """Return an answer as it is compared: punctuation, periods outside of numbers and articles gone, lower case, number
    words as digits, contractions with their apostrophes.
    """
    answer = answer.replace("\n", " ").replace("\t", " ").strip()
    text = answer
    for mark in _PUNCTUATION:
        apart = f"{mark} " in answer or f" {mark}" in answer or _DIGIT_COMMA.search(answer) is not None
        text = text.replace(mark, "" if apart else " ")
    words = [NUMBERS.get(word, word) for word in _PERIOD.sub("", text).lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def accuracy(answer: str, given: Sequence[str]) -> float:
    """Return the official accuracy of an answer.

    Args:
        answer: The model's.
        given: The annotators'; of a single one the answer has to be theirs.
    """
    if len(set(given)) > 1 or len(given) == 1:  # officially answers on which all ten agree are compared as they stand
        answer, given = normalized(answer), [normalized(one) for one in given]
    same = [one == answer for one in given]
    if len(given) == 1:
        return float(same[0])
    others = (sum(same) - own for own in same)
    return sum(min(1.0, n / _NEEDED) for n in others) / len(given)


def soft_score(count: int, annotators: int) -> int:
    """Return how right an answer is that `count` of some annotators gave, in tenths: 0, 3, 6, 9, 10.

    These are what training takes for the accuracy of VQAv2's ten annotators (as METER, arXiv 2111.02387); of a single
    annotator the answer is right.
    """
    return 10 if count >= 4 or annotators == 1 else 3 * count
