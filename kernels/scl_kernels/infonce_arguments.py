"""What `infonce` takes and gives, and the checks on it."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from scl_kernels.validation import check_matrix, check_tensor, debugging, readable


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


class InfoNCEStatistics(NamedTuple):
    """What the local rows know after the forward pass; fp32 (fp64 for fp64 inputs) without gradient."""

    row_lse: Tensor
    """(n,) log-sum-exp of a_i over all b."""
    col_lse: Tensor
    """(n,) log-sum-exp of b_i over all a."""
    diagonal: Tensor
    """(n,) similarity of a_i and b_i, divided by the temperature."""
    row_correct: Tensor
    """(n,) bool: no other b is closer to a_i than b_i."""
    col_correct: Tensor
    """(n,) bool: no other a is closer to b_i than a_i."""


def check_problems(problems: Sequence[InfoNCEProblem]) -> None:
    """Refuse problems whose fields do not fit together.

    Raises:
        ValueError: A field has the wrong shape, dtype, device or value; the message names it.
    """
    for k, problem in enumerate(problems):
        name, (n, width) = f"problems[{k}]", check_matrix(f"problems[{k}].a", problem.a)
        device, dtypes = problems[0].a.device, (problems[0].a.dtype,)
        check_tensor(f"{name}.a", problem.a, shape=(n, width), dtypes=dtypes, device=device)
        check_tensor(f"{name}.b", problem.b, shape=(n, width), dtypes=dtypes, device=device)
        check_tensor(f"{name}.a_all", problem.a_all, shape=(None, width), dtypes=dtypes, device=device)
        total = problem.a_all.shape[0]
        check_tensor(f"{name}.b_all", problem.b_all, shape=(total, width), dtypes=dtypes, device=device)
        check_tensor(f"{name}.weight_all", problem.weight_all, shape=(total,), device=device)
        if not 0 <= problem.offset <= total - n:
            raise ValueError(
                f"{name}.offset is {problem.offset}; wanted 0 to {total - n}, so that {n} local rows lie within {total}"
            )
        check_temperature(f"{name}.temperature", problem.temperature, device)
        check_weights(f"{name}.weight_all", problem.weight_all)
        _check_local_rows(name, problem)


def check_temperature(name: str, temperature: Tensor | float, device: torch.device) -> None:
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
        raise ValueError(f"{name} is {number}; wanted a finite number greater than 0")


def check_weights(name: str, weight: Tensor) -> None:
    """Refuse weights of samples, (N,), that are negative or NaN; on a GPU the kernels answer with NaN instead.

    Raises:
        ValueError: One is.
    """
    if weight.numel() and readable(weight) and not bool((weight >= 0).all()):
        raise ValueError(f"{name} holds {float(weight.min())}; wanted numbers of at least 0")


def _check_local_rows(name: str, problem: InfoNCEProblem) -> None:
    """Under the debug switch, compare the local rows with their place among the gathered ones."""
    if not debugging() or not readable(problem.a):
        return
    part = slice(problem.offset, problem.offset + problem.a.shape[0])
    for local, everything in (("a", problem.a_all), ("b", problem.b_all)):
        if not torch.equal(getattr(problem, local), everything[part]):
            raise ValueError(
                f"{name}.{local} differs from {name}.{local}_all[{part.start}:{part.stop}]; wanted the local rows there"
            )
