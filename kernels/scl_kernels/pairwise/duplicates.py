"""Rows of the global batch that say the same: what pairs of them are to each other in a pairwise loss."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from scl_kernels.pairwise.kernel import PADDING
from scl_kernels.validation import check_tensor

Treatment = Literal["negatives", "ignore", "positives"]
"""`negatives`: like any other pair; `ignore`: left out; `positives`: like a row and its own partner."""


class Duplicates(NamedTuple):
    """Who is whose duplicate among N global rows, made by `duplicates_of`."""

    numbers: Tensor
    """(2, N + PADDING) int32: rows that share either number are duplicates; -1 behind the last row."""
    counts: Tensor
    """(N,) fp32 duplicates of each row, itself among them."""
    treatment: Treatment
    """`ignore` or `positives`, the same for all problems of a call."""


def duplicates_of(ids_all: Tensor, treatment: Treatment) -> Duplicates:
    """Number the identities of the global rows, without an N x N matrix and without making the host wait.

    Args:
        ids_all: (2, N) int64 of any values; rows that share either are duplicates, so a row of one identity has it
            twice.
        treatment: `ignore` or `positives`.

    Raises:
        ValueError: `ids_all` has the wrong shape or dtype, or there is no such treatment.
    """
    check_tensor("ids_all", ids_all, shape=(2, None), dtypes=(torch.int64,))
    if treatment not in ("ignore", "positives"):
        raise ValueError(f"treatment is {treatment!r}; expected 'ignore' or 'positives'")
    total = ids_all.shape[1]
    (first, of_first), (second, of_second) = (_numbered(ids) for ids in ids_all)
    _, of_both = _numbered(first * max(1, total) + second)
    numbers = torch.full((2, total + PADDING.value), -1, dtype=torch.int32, device=ids_all.device)
    numbers[0, :total], numbers[1, :total] = first, second
    return Duplicates(numbers, (of_first + of_second - of_both).float(), treatment)


def _numbered(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return (N,) numbers below N, equal where ids are, and how many have each."""
    ordered = ids.sort().values
    ids = ids.contiguous()
    first = torch.searchsorted(ordered, ids)
    return first, torch.searchsorted(ordered, ids, right=True) - first


def check_duplicates(name: str, duplicates: Duplicates | None, total: int, device: torch.device) -> Treatment:
    """Return how duplicates are treated; `negatives` where none are named.

    Raises:
        ValueError: They are those of another number of rows, or lie elsewhere.
    """
    if duplicates is None:
        return "negatives"
    shape = (2, total + PADDING.value)
    check_tensor(f"{name}.numbers", duplicates.numbers, shape=shape, dtypes=(torch.int32,), device=device)
    check_tensor(f"{name}.counts", duplicates.counts, shape=(total,), device=device)
    return duplicates.treatment


def same_rows(numbers: Tensor, own: Tensor) -> Tensor:
    """Return (n, N) bool, which global rows are duplicates of the global rows `own`, (n, 1), themselves among them."""
    numbers = numbers[:, : numbers.shape[1] - PADDING.value]
    first, second = numbers
    return (first == first[own]) | (second == second[own])
