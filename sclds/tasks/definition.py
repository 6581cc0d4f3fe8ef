"""What a downstream task is: what an example asks and what is right, its head, and how answers are measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Loss = Literal["soft", "one_of"]
"""`soft`: binary cross-entropy with a score for each class, summed over classes (as for VQAv2: its mean over classes
times their number); `one_of`: cross-entropy with one right class."""
Scores = tuple[tuple[int, int], ...]
"""Classes that are right to some degree, and how much, in tenths."""


@dataclass(frozen=True, slots=True)
class Example:
    """One question or statement about one image, or two."""

    example_id: str
    """Unique in its data set."""
    text: str
    target: Scores | None
    """None where it is not public."""
    truth: Any = None
    """What the metric compares answers with; kept of held-out sets alone."""


class UnusableError(Exception):
    """An example cannot be used; the message is a clause that says why, the same for all of a kind."""


@dataclass(frozen=True)
class Figure:
    """One figure of a metric."""

    title: str
    value: float
    n: int
    """Examples that it is taken over."""
    chance: float | None = None
    """What an answer gives that is always the same, the most frequent one."""


@dataclass(frozen=True)
class Task:
    """One downstream task."""

    name: str
    title: str
    loss: Loss
    member: str = "json"
    """Extension of the member of a shard that holds the annotations; `json` is that of captions."""
    images: int = 1
    """Images of an example."""
    hidden: float = 0.0
    """Width of the head's hidden layer, as a multiple of fusion's; 0 is a linear head."""
    reads_captions: bool = False
    """Whether examples are captions of ordinary shards, ranked in groups, and there is no annotation."""
    classes: tuple[str, ...] | None = None
    """None where they are counted in the training annotations."""
    examples: Callable[[Any, Mapping[str, int]], list[Example | UnusableError]] = lambda record, classes: []
    """From the annotation of a sample, and the number of each class, to its examples."""
    answers_of: Callable[[Any], list[str]] = lambda record: []
    """From the annotation of a sample to the answers that are counted for classes."""
    measure: Callable[[Sequence[str], Sequence[Any]], dict[str, Figure]] = lambda answers, truths: {}
    """From answers, as names of classes, and what is true, to figures by name."""
    prediction: Callable[[str, str], Any] = lambda example_id, answer: {"id": example_id, "answer": answer}
    """One entry of the file of predictions, as the task's server expects it."""
    figures: tuple[str, ...] = field(default=())
    """Names of the figures that `measure` always gives."""
