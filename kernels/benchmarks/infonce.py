"""Benchmark of `infonce`, D = 512, bf16 on a GPU: one process over N samples, and a rank of 64 with N / 64 of them.

For the rank, `eager` is the loss of its rows against the gathered ones in both directions, without what the losses of
other ranks say of them: a lower bound of what exact eager code needs.
"""

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from harness import Workload, device
from torch import Tensor

from scl_kernels.backend import Backend
from scl_kernels.infonce import InfoNCEProblem, infonce, infonce_single, infonce_statistics
from scl_kernels.infonce_reference import MINIMUM_NORM, whole_batch
from scl_kernels.threeway import plain_infonce

RANKS = 64


def draw(count: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return (N, D) rows of both modalities from a fixed seed."""
    generator = torch.Generator().manual_seed(count)
    a, b = (torch.randn(count, width, generator=generator).to(device(), dtype) for _ in range(2))
    return a, b


def one_rank(problem: InfoNCEProblem, lse: Tensor, backend: Backend = "auto") -> Tensor:
    """Return a rank's share of the loss; the gathered log-sum-exps stand for those of the other ranks."""
    statistics = infonce_statistics([problem], backend=backend)
    return infonce([problem], [lse], [lse], statistics, backend=backend)[0]


def plain_rank(a: Tensor, b: Tensor, a_all: Tensor, b_all: Tensor, temperature: Tensor, weight: Tensor) -> Tensor:
    """Compute the loss of local rows against gathered ones with the whole (n, N) matrices."""
    a, b, a_all, b_all = (F.normalize(x, dim=1, eps=MINIMUM_NORM) for x in (a, b, a_all, b_all))
    row, col = a @ b_all.T / temperature, b @ a_all.T / temperature
    each = row.logsumexp(1) + col.logsumexp(1) - row.diagonal() - col.diagonal()
    return (weight[: len(a)] * each).sum()


def workloads() -> Iterator[Workload]:
    """Yield one workload per N, which is x."""
    gpu = device() == "cuda"
    width, dtype = (512, torch.bfloat16) if gpu else (128, torch.float32)
    for count in (256, 1024, 2048, 4096, 16384, 32768) if gpu else (128, 512):
        temperature = torch.tensor(0.07, device=device(), requires_grad=True)
        inputs = [*(x.requires_grad_() for x in draw(count, width, dtype)), temperature]
        weight = torch.full((count,), 1 / count, device=device())
        ours, small = partial(infonce_single, *inputs, weight), partial(whole_batch, *inputs, weight)
        yield Workload(
            count,
            {"size": count * count * width, "width": width, "dtype": str(dtype)},
            inputs,
            {
                "ours": ours,
                **({"triton": partial(ours, backend="triton"), "twin": small} if gpu else {}),
                "eager": partial(plain_infonce, *inputs, weight),
                "compile": partial(torch.compile(plain_infonce), *inputs, weight),
            },
        )
    for count in (4096, 65536) if gpu else (512,):
        a_all, b_all = draw(count, width, dtype)
        a, b = (x[: count // RANKS].clone().requires_grad_() for x in (a_all, b_all))
        temperature = torch.tensor(0.07, device=device(), requires_grad=True)
        weight = torch.full((count,), 1 / count, device=device())
        problem = InfoNCEProblem(a, b, a_all, b_all, temperature, 0, weight)
        lse = torch.full((count,), 15.0, device=device())
        eager = (a, b, a_all, b_all, temperature, weight)
        yield Workload(
            count,
            {"size": len(a) * count * width, "ranks": RANKS, "width": width, "dtype": str(dtype)},
            [a, b, temperature],
            {
                "ours": partial(one_rank, problem, lse),
                **({"triton": partial(one_rank, problem, lse, "triton")} if gpu else {}),
                "eager": partial(plain_rank, *eager),
                "compile": partial(torch.compile(plain_rank), *eager),
            },
            case="rank",
        )
