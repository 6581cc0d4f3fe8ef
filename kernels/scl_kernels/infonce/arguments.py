"""What `infonce` takes and gives, and the checks on it."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from scl_kernels.pairwise.arguments import check_rows, check_weights
from scl_kernels.pairwise.duplicates import Duplicates, check_duplicates
from scl_kernels.validation import check_tensor, readable


class InfoNCEProblem(NamedTuple):
    """One symmetric InfoNCE loss over the global batch, as one rank sees it."""

    a: Tensor
    """(n, D) local rows of one modality, with gradient; n may be 0."""
    b: Tensor
    """(n, D) their partners, with gradient."""
    a_all: Tensor
    """(N, D) the rows `a` of all ranks, constants; the local ones lie at [offset, offset + n)."""
    b_all: Tensor
    """(N, D) the rows `b` of all ranks, constants."""
    temperature: Tensor | float
    """() divisor of the cosine similarities, learnable, or a fixed number."""
    offset: int
    """Index of the first local row in the global batch."""
    weight_all: Tensor
    """(N,) weight of each global sample's loss, constants (for a mean: 1 / N)."""
    duplicates: Duplicates | None = None
    """Which global samples are no negatives of each other; None where all are. All problems of a call have them, or
    none; a problem in which no two rows are duplicates has rows of different ids."""


class InfoNCEStatistics(NamedTuple):
    """What the local rows know after the forward pass; fp32 (fp64 for fp64 inputs) without gradient."""

    row_lse: Tensor
    """(n,) log-sum-exp of a_i over all b."""
    col_lse: Tensor
    """(n,) log-sum-exp of b_i over all a."""
    diagonal: Tensor
    """(n,) similarity of a_i and b_i, divided by the temperature; where duplicates are positives, the mean over them of
    both directions."""
    expected: Tensor
    """(n,) mean of a_i's similarities by their softmax, and of b_i's: the mean of both. From it and the
    diagonal follows the temperature's gradient."""
    row_correct: Tensor
    """(n,) bool: every b that is a negative is farther from a_i than b_i, or than another of its positives; neither a
    tie nor NaN is correct."""
    col_correct: Tensor
    """(n,) bool: the same the other way round, of every a that is a negative and b_i."""


def check_problems(problems: Sequence[InfoNCEProblem]) -> None:
    """Refuse problems whose fields do not fit together.

    Raises:
        ValueError: A field has the wrong shape, dtype, device or value; the message names it.
    """
    first, treatments = None, []
    for k, problem in enumerate(problems):
        name = f"problems[{k}]"
        check_rows(name, problem, like=first)
        first = problems[0].a
        _check_temperature(f"{name}.temperature", problem.temperature, first.device)
        check_weights(f"{name}.weight_all", problem.weight_all)
        total = problem.a_all.shape[0]
        treatments.append(check_duplicates(f"{name}.duplicates", problem.duplicates, total, first.device))
        if treatments[k] != treatments[0]:
            raise ValueError(
                f"{name} has duplicates as {treatments[k]}, and problems[0] as {treatments[0]}; expected one for all"
            )


def _check_temperature(name: str, temperature: Tensor | float, device: torch.device) -> None:
    """Refuse a temperature that is none, as far as the host may look at it.

    Args:
        name: The argument's name, for the message.
        temperature: () divisor of the similarities.
        device: Where it has to lie.

    Raises:
        ValueError: It is not a positive number, or lies elsewhere.
    """
    if isinstance(temperature, Tensor):
        check_tensor(name, temperature, shape=(), device=device)
        number = float(temperature.detach()) if readable(temperature) else 1.0
    else:
        number = temperature
    if not 0 < number < float("inf"):
        raise ValueError(f"{name} is {number}; expected a finite number greater than 0")
