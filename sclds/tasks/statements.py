"""What tasks share whose annotations are statements with one right class."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sclds.tasks.definition import Example, Figure, UnusableError
from sclds.tasks.reading import each_of, id_in, text_in

Reader = Callable[[Any, Mapping[str, int]], list[Example | UnusableError]]
RIGHT = 10
"""A right class, in tenths."""


def examples_of(
    name_of: Callable[[Any], str | None], sentence_of: Callable[[str, str], str] = lambda identifier, text: text
) -> Reader:
    """Return what reads the statements of a sample.

    Args:
        name_of: From a label to the name of a class.
        sentence_of: From identifier and text to what is the same for all statements of one sentence.
    """

    def read(record: Any, classes: Mapping[str, int]) -> list[Example | UnusableError]:
        return each_of(record, "statements", lambda statement: _example(statement, name_of, sentence_of, classes))

    return read


def _example(
    statement: Any,
    name_of: Callable[[Any], str | None],
    sentence_of: Callable[[str, str], str],
    classes: Mapping[str, int],
) -> Example | UnusableError:
    label = statement.get("label")
    name = None if label is None else name_of(label)
    if label is not None and name not in classes:
        return UnusableError(f"its label is none of {', '.join(classes)}")
    target = None if name is None else ((classes[name], RIGHT),)
    identifier, text = id_in(statement, "identifier"), text_in(statement, "sentence")
    return Example(identifier, text, target, None if name is None else (name, sentence_of(identifier, text)))


def right_share(answers: Sequence[str], truths: Sequence[Any]) -> dict[str, Figure]:
    """Return the share of right answers, beside that of the most frequent one; truths are (label, sentence)."""
    labels = [label for label, _ in truths]
    right = sum(answer == label for answer, label in zip(answers, labels, strict=True)) / len(labels)
    frequent = Counter(labels).most_common(1)[0][1] / len(labels)
    return {"accuracy": Figure("all statements", right, len(labels), frequent)}
