"""NLVR2 (arXiv 1811.00491): whether a statement about two images is true; the text is fused with either image."""

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sclds.data.storage.shards import NLVR2_MEMBER
from sclds.tasks.definition import Figure, Task
from sclds.tasks.statements import examples_of, right_share

CLASSES = ("False", "True")
_IDENTIFIER = re.compile(r"(.+-\d+)-\d+-(\d+)")
"""Split and set, pair of images, sentence."""


def sentence_of(identifier: str, text: str) -> str:
    """Return what the official metric takes for one sentence: its identifier without the number of the pair of images.

    Equal texts of different sets are different sentences. Where identifiers are of another form, the text tells.
    """
    found = _IDENTIFIER.fullmatch(identifier)
    return "-".join(found.groups()) if found else text


def measure(answers: Sequence[str], truths: Sequence[Any]) -> dict[str, Figure]:
    """Return accuracy, and consistency: the share of sentences that are answered rightly for all of their pairs."""
    right: dict[str, list[bool]] = defaultdict(list)
    for answer, (label, sentence) in zip(answers, truths, strict=True):
        right[sentence].append(answer == label)
    consistency = sum(map(all, right.values())) / len(right)
    return right_share(answers, truths) | {
        "consistency": Figure("sentences right for all their pairs", consistency, len(right))
    }


NLVR2 = Task(
    "nlvr2",
    "Statements about two images",
    loss="one_of",
    member=NLVR2_MEMBER,
    images=2,
    hidden=2.0,
    classes=CLASSES,
    examples=examples_of(str, sentence_of),
    measure=measure,
    figures=("accuracy", "consistency"),
)
