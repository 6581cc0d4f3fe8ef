"""What is measured on held-out data: tasks by name, as `evaluation.tasks` of the configuration lists them.

A task turns the held-out pass into entries of `results.json`. A new one is a row here, its module, and its name in
`sclds.config.EvaluationConfig`.
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
from sclds.evaluation.heldout import Encoded, HeldoutPass, mean_losses
from sclds.evaluation.retrieval import evaluate_retrieval, retrieval_section
from sclds.evaluation.section import Section
from sclds.losses.communicator import Communicator


@dataclass(frozen=True)
class Task:
    """One thing that is measured."""

    evaluate: Callable[[dict[str, Encoded]], dict[str, Any]]
    """From what the held-out pass found, by kind, to entries of `results.json`."""
    section: Callable[[Mapping[str, Any]], Section | None] = lambda results: None
    """From `results.json` to what the page shows; None where there is nothing yet, or the page has its own place."""


TASKS: Mapping[str, Task] = MappingProxyType(
    {
        "losses": Task(lambda kinds: {"losses": mean_losses(kinds)}),  # beside the curves of training
        "retrieval": Task(evaluate_retrieval, retrieval_section),
    }
)
"""By the name in `evaluation.tasks`."""


def evaluate(
    model: nn.Module,
    config: Config,
    tokenizer: Tokenizer,
    device: torch.device,
    communicator: Communicator,
    quarantine: Quarantine | None = None,
    tasks: Sequence[str] | None = None,
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

    Returns:
        The entries of all tasks.

    Raises:
        UserError: On every rank, if any cannot read its samples.
    """
    kinds = HeldoutPass(model, config, tokenizer, device, communicator, quarantine).run()
    results: dict[str, Any] = {}
    for name in config.evaluation.tasks if tasks is None else tasks:
        results |= TASKS[name].evaluate(kinds)
    return results
