"""The losses on held-out data, beside what guessing gives and how many candidates they count over."""

from collections.abc import Mapping
from typing import Any

from sclds.evaluation.heldout import Encoded
from sclds.evaluation.section import Cell, Section
from sclds.objectives import table
from sclds.tasks import TASKS

ACCURACY = "_accuracy"
"""Behind the name of an objective: how often the right one was found, beside its loss."""
TOTAL = "total"
NOTE = (
    "Contrastive and completion losses grow with the number of candidates, which are the samples of a batch: beside "
    "each stands what guessing among them gives. A loss over the batches of training and one over these batches do "
    "not compare; the distance of each from its own level does."
)
COLUMNS = ("step 0", "end", "guessing", "candidates", "right, step 0", "right, end")


def loss_titles() -> dict[str, str]:
    """Return what people read for every term, in the order of pages."""
    objectives = {objective.name: objective.title for objective in table.OBJECTIVES}
    return {TOTAL: "Total, weighted"} | objectives | {task.name: task.title for task in TASKS.values()}


def evaluate_losses(sets: Mapping[str, Encoded]) -> dict[str, Any]:
    """Return `losses`: the mean of every loss, each set weighted by its samples."""
    total = sum(len(encoded.sample_ids) for encoded in sets.values())
    means: dict[str, float] = {}
    for encoded in sets.values():
        share = len(encoded.sample_ids) / total
        for name, values in encoded.losses.items():
            means[name] = means.get(name, 0.0) + share * sum(values) / len(values)
    return {"losses": means}


def losses_of_set(encoded: Encoded) -> dict[str, Any]:
    """Return the mean losses of a set, what guessing gives, and the samples that each of them counts over."""
    return {
        "losses": {name: sum(values) / len(values) for name, values in encoded.losses.items()},
        "levels": {name: sum(values) / len(values) for name, values in encoded.levels.items()},
        "loss_samples": encoded.loss_samples,
    }


def loss_sections(results: Mapping[str, Any]) -> list[Section]:
    """Return the table of the losses of each set; none where none was measured at the end."""
    titles = loss_titles()
    sections: list[Section] = []
    for name, row in results.get("sets", {}).items():
        last = row.get("losses", {}).get("final", {})
        rows = [(titles[term], _cells(term, row)) for term in titles if last.get(term) is not None]
        if not rows:
            continue
        used = [place for place in range(len(COLUMNS)) if any(cells[place].text for _, cells in rows)]
        section = Section(
            f"Held-out losses: {name}",
            NOTE if not sections else "",
            tuple(COLUMNS[place] for place in used),
            tuple((term, tuple(cells[place] for place in used)) for term, cells in rows),
        )
        sections.append(section)
    return sections


def _cells(term: str, row: Mapping[str, Any]) -> tuple[Cell, ...]:
    """Return the figures of one loss of a set, in the order of `COLUMNS`."""
    first, last = (row["losses"].get(when, {}) for when in ("initial", "final"))
    objective = next((one for one in table.OBJECTIVES if one.name == term), None)
    candidates = row.get("loss_samples") if objective is not None and objective.compares_samples else None
    answers = candidates or (objective.classes if objective is not None else None)
    chance = f"{1 / answers:.1%}" if answers else ""
    return (
        _number(first.get(term)),
        _number(last.get(term)),
        _number(row.get("levels", {}).get(term)),
        Cell(f"{candidates:,}" if candidates else ""),
        _percent(first.get(f"{term}{ACCURACY}"), chance),
        _percent(last.get(f"{term}{ACCURACY}"), chance),
    )


def _number(value: float | None) -> Cell:
    return Cell("" if value is None else f"{value:.3f}")


def _percent(share: float | None, chance: str) -> Cell:
    return Cell("") if share is None else Cell(f"{share:.1%}", chance)
