"""What is measured on held-out data: tasks by name, as `evaluation.tasks` of the configuration lists them.

A task turns the held-out pass into entries of `results.json`, for all sets together and for each by itself. A new one
is a row here, its module, and its name in `sclds.config.EvaluationConfig`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from sclds.config import Config
from sclds.data.quarantine import Quarantine
from sclds.data.tokenizer import Tokenizer
from sclds.evaluation.alignment import (
    ALIGN_BENCH,
    Aligned,
    AlignPass,
    alignment_figures,
    alignment_names,
    alignment_of,
    alignment_sections,
    evaluate_alignment,
)
from sclds.evaluation.answers import (
    AnswersPass,
    answer_figures,
    answer_names,
    answer_sections,
    answers_of_set,
    predictions_of,
)
from sclds.evaluation.gallery import GalleryPass
from sclds.evaluation.heldout import Encoded, HeldoutPass, Progress
from sclds.evaluation.losses import ACCURACY, TOTAL, evaluate_losses, loss_sections, losses_of_set
from sclds.evaluation.parts import Parts
from sclds.evaluation.retrieval import (
    FIGURES,
    MEDIAN,
    evaluate_retrieval,
    protocol_of,
    rank_set,
    retrieval_figures,
    retrieval_names,
    retrieval_sections,
)
from sclds.evaluation.section import Section
from sclds.losses.communicator import Communicator
from sclds.objectives import objectives_in_use
from sclds.tasks import TASKS as DOWNSTREAM


@dataclass(frozen=True)
class Task:
    """One thing that is measured."""

    evaluate: Callable[[Mapping[str, Encoded]], dict[str, Any]]
    """From what the held-out pass found, by set, to entries of `results.json`."""
    of_set: Callable[[Encoded, Config], dict[str, Any]]
    """From what it found of one set to entries of that set's row under `sets` in `results.json`."""
    figures: Callable[[Mapping[str, Any]], dict[str, float]]
    """From a set's row, as `of_set` gave it, to the figures that are followed during training, by name."""
    figure_names: Callable[[Config], list[str]]
    """The names of these figures, before anything is measured."""
    sections: Callable[[Mapping[str, Any]], list[Section]]
    """From `results.json` to what the page shows; none where there is nothing yet."""
    reads: Callable[[Config], type[HeldoutPass]] = lambda config: HeldoutPass
    """The pass over the held-out sets that finds what it measures; tasks of one pass share it."""
    own_set: str | None = None
    """The set that it measures, where that is none of `data.heldout`."""


def _answers(name: str) -> Task:
    """Return the row of a downstream task."""
    return Task(
        lambda sets: predictions_of(name, sets),
        lambda encoded, config: answers_of_set(name, encoded),
        lambda row: answer_figures(name, row),
        lambda config: answer_names(name),
        lambda results: answer_sections(name, results),
        lambda config: AnswersPass,
    )


def _alignment_row(encoded: Encoded) -> dict[str, Any]:
    return {ALIGN_BENCH: alignment_of(encoded)} if isinstance(encoded, Aligned) else {}


def _loss_names(config: Config) -> list[str]:
    names = [objective.name for objective in objectives_in_use(config.losses)]
    return [TOTAL, *names, *(f"{name}{ACCURACY}" for name in names)]


TASKS: Mapping[str, Task] = MappingProxyType(
    {
        "retrieval": Task(
            evaluate_retrieval,
            lambda encoded, config: rank_set(encoded) | {"protocol": protocol_of(config)},
            retrieval_figures,
            retrieval_names,
            retrieval_sections,
            lambda config: GalleryPass if asks_for_gallery(config) else HeldoutPass,
        ),
        "losses": Task(
            evaluate_losses,
            lambda encoded, config: losses_of_set(encoded),
            lambda row: dict(row.get("losses", {})),
            _loss_names,
            loss_sections,
        ),
        ALIGN_BENCH: Task(
            evaluate_alignment,
            lambda encoded, config: _alignment_row(encoded),
            alignment_figures,
            lambda config: alignment_names(),
            alignment_sections,
            lambda config: AlignPass,
            ALIGN_BENCH,
        ),
    }
    | {name: _answers(name) for name, task in DOWNSTREAM.items() if not task.reads_captions}
)
"""By the name in `evaluation.tasks`, in the order of pages."""


def evaluate(
    model: nn.Module,
    config: Config,
    tokenizer: Tokenizer,
    device: torch.device,
    communicator: Communicator,
    quarantine: Quarantine | None = None,
    tasks: Sequence[str] | None = None,
    share: float = 1.0,
    progress: Progress | None = None,
    parts: Parts | None = None,
) -> dict[str, Any]:
    """Measure tasks on the held-out sets in one pass; every rank calls it and gets the same result.

    Args:
        model: The model, or the engine that wraps it. It is left in its mode.
        config: The run.
        tokenizer: The run's.
        device: Where the model lies.
        communicator: All processes of the run.
        quarantine: Counts and names unusable samples, which are left out; by default it only counts.
        tasks: Names of `TASKS`; by default those of `evaluation.tasks`.
        share: Of the batches of each set, those that are read.
        progress: Is told what is done, how much of it, and of how much.
        parts: Where what is finished of a gallery is kept, and taken from.

    Returns:
        The entries of all tasks, and `sets`: a row for each held-out set of which a sample can be used.

    Raises:
        UserError: On every rank, if any cannot read its samples.
    """
    config = as_measured(config)
    names = config.evaluation.tasks if tasks is None else tasks
    found: dict[type[HeldoutPass], dict[str, Encoded]] = {}
    rows: dict[str, dict[str, Any]] = {}
    results: dict[str, Any] = {}
    for name in names:
        kind = TASKS[name].reads(config)
        if kind not in found:
            arguments = (model, config, tokenizer, device, communicator, quarantine, share, progress, parts)
            found[kind] = kind(*arguments).run()
        results |= TASKS[name].evaluate(found[kind])
        for of, encoded in found[kind].items():
            row = rows.setdefault(of, {"kind": encoded.kind, "samples": len(encoded.sample_ids)})
            row |= TASKS[name].of_set(encoded, config)
    return results | {"sets": rows}


def as_measured(config: Config) -> Config:
    """Return the settings under which held-out samples are shown: with `evaluation.frames`, if these are given."""
    if config.evaluation.frames is None:
        return config
    return config.model_copy(update={"data": config.data.model_copy(update={"frames": config.evaluation.frames})})


def asks_for_gallery(config: Config) -> bool:
    """Return whether retrieval reads more than the first caption, or matches pairs."""
    return config.evaluation.captions == "all" or config.evaluation.rerank > 0


def figures(results: Mapping[str, Any]) -> dict[str, float]:
    """Return every figure of what `evaluate` gave under `heldout/SET/FIGURE`, as metrics and TensorBoard name it."""
    return {
        f"heldout/{name}/{figure}": value
        for name, row in results["sets"].items()
        for task in TASKS.values()
        for figure, value in task.figures(row).items()
    }


def figure_names(config: Config) -> list[str]:
    """Return the names that `figures` can give for a run."""
    heldout = [dataset.name for dataset in config.data.heldout]
    return [
        f"heldout/{of}/{name}"
        for task in map(TASKS.__getitem__, config.evaluation.tasks)
        for of in ([task.own_set] if task.own_set else heldout)
        for name in task.figure_names(config)
    ]


def higher_is_better(figure: str) -> bool:
    """Return whether a figure is a share of what was found, and not a loss or a rank."""
    answers = tuple(name for task in DOWNSTREAM for name in answer_names(task))
    shares = (ACCURACY, *FIGURES, *answers, *alignment_names())
    return not figure.endswith(MEDIAN) and figure.endswith(shares)


def has_something_to_measure(config: Config) -> bool:
    """Return whether any of `evaluation.tasks` has data: a held-out set, or a set of its own."""
    return bool(config.data.heldout) or any(TASKS[name].own_set for name in config.evaluation.tasks)


def sections(results: Mapping[str, Any]) -> list[Section]:
    """Return the tables of every task that has left something."""
    return [section for task in TASKS.values() for section in task.sections(results)]
