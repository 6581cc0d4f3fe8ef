"""SNLI-VE (arXiv 1901.06706): whether an image entails a statement, contradicts it, or neither."""

from sclds.data.storage.shards import VE_MEMBER
from sclds.tasks.definition import Task
from sclds.tasks.statements import examples_of, right_share

CLASSES = ("contradiction", "neutral", "entailment")

SNLI_VE = Task(
    "snli_ve",
    "Visual entailment",
    loss="one_of",
    member=VE_MEMBER,
    hidden=2.0,
    classes=CLASSES,
    examples=examples_of(str),
    measure=right_share,
    prediction=lambda example_id, answer: {"pairID": example_id, "label": answer},
    figures=("accuracy",),
)
