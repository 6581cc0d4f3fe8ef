"""Checks on what every pairwise loss takes: local rows of two modalities, and those of all ranks."""

from typing import Protocol

import torch
from torch import Tensor

from scl_kernels.validation import check_matrix, check_tensor, debugging, readable


class Rows(Protocol):
    """The fields that problems of all pairwise losses have."""

    @property
    def a(self) -> Tensor:
        """(n, D) local rows of one modality."""

    @property
    def b(self) -> Tensor:
        """(n, D) their partners."""

    @property
    def a_all(self) -> Tensor:
        """(N, D) the rows `a` of all ranks."""

    @property
    def b_all(self) -> Tensor:
        """(N, D) the rows `b` of all ranks."""

    @property
    def offset(self) -> int:
        """Index of the first local row in the global batch."""

    @property
    def weight_all(self) -> Tensor:
        """(N,) weight of each global row."""


def check_rows(name: str, problem: Rows, like: Tensor | None = None) -> None:
    """Refuse rows that do not fit together.

    Args:
        name: The argument's name, for the message.
        problem: The argument.
        like: Has the expected dtype and device; None for `a`.

    Raises:
        ValueError: A field has the wrong shape, dtype, device or value; under SCL_KERNELS_DEBUG=1 also where the
            local rows are not those at `offset` of the gathered ones.
    """
    n, width = check_matrix(f"{name}.a", problem.a)
    like = problem.a if like is None else like
    dtypes, device = (like.dtype,), like.device
    check_tensor(f"{name}.a", problem.a, shape=(n, width), dtypes=dtypes, device=device)
    check_tensor(f"{name}.b", problem.b, shape=(n, width), dtypes=dtypes, device=device)
    check_tensor(f"{name}.a_all", problem.a_all, shape=(None, width), dtypes=dtypes, device=device)
    total = problem.a_all.shape[0]
    check_tensor(f"{name}.b_all", problem.b_all, shape=(total, width), dtypes=dtypes, device=device)
    check_tensor(f"{name}.weight_all", problem.weight_all, shape=(total,), device=device)
    if not 0 <= problem.offset <= total - n:
        raise ValueError(
            f"{name}.offset is {problem.offset}; expected 0 to {total - n}, so that {n} local rows lie within {total}"
        )
    _check_local_rows(name, problem)


def check_weights(name: str, weight: Tensor) -> None:
    """Refuse weights of samples, (N,), that are negative or NaN; on a GPU their values are not read.

    Raises:
        ValueError: One is.
    """
    if weight.numel() and readable(weight) and not bool((weight >= 0).all()):
        raise ValueError(f"{name} holds {float(weight.min())}; expected numbers of at least 0")


def _check_local_rows(name: str, problem: Rows) -> None:
    """Under the debug switch, compare the local rows with their place among the gathered ones."""
    if not debugging() or not readable(problem.a):
        return
    part = slice(problem.offset, problem.offset + problem.a.shape[0])
    for local, everything in (("a", problem.a_all), ("b", problem.b_all)):
        if not torch.equal(getattr(problem, local), everything[part]):
            place = f"{name}.{local}_all[{part.start}:{part.stop}]"
            raise ValueError(f"{name}.{local} differs from {place}; expected the local rows there")
