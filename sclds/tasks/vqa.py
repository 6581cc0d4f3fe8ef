"""Visual question answering (VQAv2, easy-VQA): the most frequent answers of training are the classes."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sclds.data.storage.shards import VQA_MEMBER
from sclds.tasks.definition import Example, Figure, Task, UnusableError
from sclds.tasks.reading import each_of, id_in, is_text, text_in, texts_in
from sclds.tasks.vqa_accuracy import accuracy, normalized, soft_score

_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")


def answers_of(record: Any) -> list[str]:
    """Return, normalized, the answer that most annotators gave to each question; test questions have none."""
    given = [question.get("answer") for question in record["questions"] if isinstance(question, dict)]
    return [normalized(answer) for answer in given if is_text(answer)]


def examples_of(record: Any, classes: Mapping[str, int]) -> list[Example | UnusableError]:
    """Return the questions about an image. One that no class answers has no score, and cannot be learned from."""
    return each_of(record, "questions", lambda question: _example(question, classes))


def _example(question: Any, classes: Mapping[str, int]) -> Example:
    name, text, given = id_in(question, "question_id"), text_in(question, "question"), texts_in(question, "answers")
    if not given:
        return Example(name, text, None)
    counts = Counter(normalized(answer) for answer in given)
    scores = tuple(
        (classes[answer], soft_score(count, len(given))) for answer, count in counts.items() if answer in classes
    )
    kind = text_in(question, "answer_type") if question.get("answer_type") else ""
    return Example(name, text, scores, (tuple(given), kind))


def _entry(example_id: str, answer: str) -> dict[str, Any]:
    """Return an answer as the server takes it; ids of own data need not be numbers."""
    return {"question_id": int(example_id) if _NUMBER.fullmatch(example_id) else example_id, "answer": answer}


def measure(answers: Sequence[str], truths: Sequence[Any]) -> dict[str, Figure]:
    """Return the official accuracy, of all questions and of every type of answer."""
    scores = [accuracy(answer, given) for answer, (given, _) in zip(answers, truths, strict=True)]
    frequent = Counter(normalized(one) for given, _ in truths for one in given).most_common(1)[0][0]
    same = [accuracy(frequent, given) for given, _ in truths]
    found = {"accuracy": Figure("all questions", _mean(scores), len(scores), _mean(same))}
    for kind in sorted({kind for _, kind in truths if kind}):
        rows = [row for row, (_, of) in enumerate(truths) if of == kind]
        right, chance = (_mean([values[row] for row in rows]) for values in (scores, same))
        found[f"accuracy_{kind.replace('/', '_')}"] = Figure(f"answers: {kind}", right, len(rows), chance)
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


VQA = Task(
    "vqa",
    "Question answering",
    loss="soft",
    member=VQA_MEMBER,
    hidden=2.0,
    examples=examples_of,
    answers_of=answers_of,
    measure=measure,
    prediction=_entry,
    figures=("accuracy",),
)
