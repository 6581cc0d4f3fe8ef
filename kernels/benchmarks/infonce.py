"""Benchmark of `infonce`, D = 512, bf16 on a GPU: one process over N samples, and a rank of 64 with N / 64 of them.

For the rank, `eager` is the loss of its rows against the gathered ones in both directions, without what the losses of
other ranks say of them: a lower bound of what exact eager code needs.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from harness import Workload, device, implementations
from others import others
from pairwise import PUBLISHED, PUBLISHED_RANKS, RANKS, counts, draw, learnable, mean, rank_counts, setting
from torch import Tensor

from scl_kernels import InfoNCEProblem, infonce, infonce_statistics
from scl_kernels.backend import Backend
from scl_kernels.infonce.reference import plain_infonce
from scl_kernels.pairwise.reference import MINIMUM_NORM


def one_rank(problem: InfoNCEProblem, lse: Tensor | None, backend: Backend = "auto") -> Tensor:
    """Return a rank's share of the loss; `lse` stands for the gathered log-sum-exps, None for those of one process."""
    statistics = infonce_statistics([problem], backend=backend)
    row_lse, col_lse = (statistics[0].row_lse, statistics[0].col_lse) if lse is None else (lse, lse)
    return infonce([problem], [row_lse], [col_lse], statistics, backend=backend)[0]


def plain_rank(a: Tensor, b: Tensor, a_all: Tensor, b_all: Tensor, temperature: Tensor, weight: Tensor) -> Tensor:
    """Compute the loss of local rows against gathered ones with the whole (n, N) matrices."""
    a, b, a_all, b_all = (F.normalize(x, dim=1, eps=MINIMUM_NORM) for x in (a, b, a_all, b_all))
    row, col = a @ b_all.T / temperature, b @ a_all.T / temperature
    each = row.logsumexp(1) + col.logsumexp(1) - row.diagonal() - col.diagonal()
    return (weight[: len(a)] * each).sum()


def workloads() -> Iterator[Workload]:
    """Yield one workload per N, which is x."""
    if device() == "cuda":  # first, since it has a target, and time may run out
        yield from _ranks(PUBLISHED_RANKS, (PUBLISHED,), "published")
    width, dtype = setting()
    for count in counts():
        temperature, weight = learnable(0.07), mean(count)
        a, b = (x.requires_grad_() for x in draw(count, width, dtype))
        problem = InfoNCEProblem(a, b, a.detach(), b.detach(), temperature, 0, weight)
        eager = (a, b, temperature, weight)
        yield Workload(
            count,
            {"size": count * count * width, "width": width, "dtype": str(dtype)},
            [a, b, temperature],
            {
                **implementations(partial(one_rank, problem, None)),
                "eager": partial(plain_infonce, *eager),
                "compile": partial(torch.compile(plain_infonce), *eager),
                **others("inf_cl", a, b, temperature),
            },
        )
    yield from _ranks(RANKS, rank_counts(), "rank")


def _ranks(ranks: int, totals: Sequence[int], case: str) -> Iterator[Workload]:
    """Yield the loss of one of so many ranks."""
    width, dtype = setting()
    for count in totals:
        a_all, b_all = draw(count, width, dtype)
        a, b = (x[: count // ranks].clone().requires_grad_() for x in (a_all, b_all))
        temperature, weight = learnable(0.07), mean(count)
        problem = InfoNCEProblem(a, b, a_all, b_all, temperature, 0, weight)
        eager = (a, b, a_all, b_all, temperature, weight)
        yield Workload(
            count,
            {"size": len(a) * count * width, "ranks": ranks, "width": width, "dtype": str(dtype)},
            [a, b, temperature],
            {
                **implementations(partial(one_rank, problem, torch.full_like(weight, 15.0))),
                "eager": partial(plain_rank, *eager),
                "compile": partial(torch.compile(plain_rank), *eager),
            },
            case=case,
        )
