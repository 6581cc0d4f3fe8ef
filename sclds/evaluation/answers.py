"""What a downstream task answers on held-out sets, shared by the ranks as the held-out pass is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sclds.batch import Batch
from sclds.config import DatasetConfig
from sclds.data.loader import HeldoutChunk, HeldoutReader
from sclds.data.quarantine import Quarantine
from sclds.evaluation.heldout import Encoded, HeldoutPass
from sclds.evaluation.section import Cell, Section
from sclds.losses.communicator import gather_records
from sclds.machine.implementations import compute_dtype
from sclds.tasks import TASKS
from sclds.tasks.annotations import classes_of
from sclds.tasks.loader import ExampleReader, TaskBatch
from sclds.tasks.model import LOGITS

PREDICTIONS = "predictions"
"""Key of all answers among what `evaluate` gives; they go into files of their own."""
NOTE = (
    "On held-out samples that training never saw; the small figure and the mark are what the one most frequent answer "
    "would get."
)


@dataclass
class Answered(Encoded):
    """The examples of one held-out set, in the order of the data."""

    dataset: str = ""
    answers: list[str] = field(default_factory=list)
    """Names of classes."""
    truths: list[Any] = field(default_factory=list)
    """None where they are not public."""


class AnswersPass(HeldoutPass):
    """Answers the examples of the held-out sets; arguments are those of `HeldoutPass`."""

    def _new_reader(self, quarantine: Quarantine | None) -> HeldoutReader:
        config = self._config
        self._classes = classes_of(config)
        self._truths: dict[str, dict[str, Any]] = {}
        self._examples = ExampleReader(config, self._tokenizer, config.evaluation.batch_size, quarantine)
        return self._examples

    def _empty(self, dataset: DatasetConfig) -> Encoded:
        if dataset.name not in self._truths:
            samples = self._examples.examples(dataset).examples
            truths = {example.example_id: example.truth for examples in samples for example in examples}
            self._truths[dataset.name] = truths
        return Answered(dataset.kind, dataset=dataset.name)

    def _all_chunks(self, dataset: DatasetConfig) -> list[HeldoutChunk]:
        evaluation = self._config.evaluation
        count, size = len(self._examples.examples(dataset).examples), evaluation.batch_size
        count = min(count, evaluation.max_samples)
        return [HeldoutChunk(dataset, start, min(start + size, count)) for start in range(0, count, size)]

    def _forward(self, batch: Batch) -> Any:
        """Return the number of the answer to each example."""
        logits = self._model(batch.to(self._device, compute_dtype(self._config)))[LOGITS]
        return logits.float().argmax(1).tolist()

    def _take_in(self, batch: Batch | None, found: Any, encoded: Encoded) -> None:
        """Exchange what every rank answered (None: nothing that counts), in order."""
        assert isinstance(encoded, Answered)
        record: dict[str, Any] = {"ids": [], "answers": []}
        if isinstance(batch, TaskBatch):
            record = {"ids": batch.example_ids, "answers": found}
        truths = self._truths[encoded.dataset]
        for shown in gather_records(record, self._communicator, self._device):
            encoded.sample_ids += shown["ids"]
            encoded.answers += [self._classes[number] for number in shown["answers"]]
            encoded.truths += [truths[example_id] for example_id in shown["ids"]]


def predictions_of(name: str, sets: Mapping[str, Encoded]) -> dict[str, Any]:
    """Return all answers by set, in the form of the task's server."""
    entry = TASKS[name].prediction
    return {
        PREDICTIONS: {
            of: [entry(*one) for one in zip(found.sample_ids, found.answers, strict=True)]
            for of, found in sets.items()
            if isinstance(found, Answered)
        }
    }


def answers_of_set(name: str, found: Encoded) -> dict[str, Any]:
    """Return the figures of a set, as far as what is true is public: each with its title, and chance where known."""
    assert isinstance(found, Answered)
    known = [row for row, truth in enumerate(found.truths) if truth is not None]
    if not known:
        return {}
    measured = TASKS[name].measure([found.answers[row] for row in known], [found.truths[row] for row in known])
    return {
        name: {
            key: {"title": one.title, "value": one.value, "chance": one.chance, "n": one.n}
            for key, one in measured.items()
        }
    }


def answer_figures(name: str, row: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of a set's row of `results.json` by `TASK_FIGURE`."""
    return {f"{name}_{key}": one["value"] for key, one in row.get(name, {}).items()}


def answer_names(name: str) -> list[str]:
    """Return the names of `answer_figures` that are always there."""
    return [f"{name}_{key}" for key in TASKS[name].figures]


def first_figures(results: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the first figure of the downstream task for each set, with the set's name."""
    return [
        (of, row[name][task.figures[0]])
        for of, row in results.get("sets", {}).items()
        for name, task in TASKS.items()
        if task.figures and name in row
    ]


def answer_sections(name: str, results: Mapping[str, Any]) -> list[Section]:
    """Return the table of a task; none where nothing was measured."""
    rows = tuple(
        (f"{of}: {one['title']}", (_share(one), Cell(f"{one['n']:,}")))
        for of, row in results.get("sets", {}).items()
        for one in row.get(name, {}).values()
    )
    return [Section(TASKS[name].title, NOTE, ("right", "examples"), rows)] if rows else []


def _share(one: Mapping[str, Any]) -> Cell:
    chance = one["chance"]
    return Cell(f"{one['value']:.1%}", "" if chance is None else f"{chance:.1%}", one["value"], chance or 0.0)
