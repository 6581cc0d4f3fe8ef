"""Benchmark of `sigmoid_loss`, D = 512, bf16 on a GPU: one process over N samples, and a rank of 64 with N / 64.

For the rank, `eager` forms the logits of its rows of `a` with all rows of `b`, whose gradients the ranks would still
have to add up.
"""

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from harness import Workload, device, implementations
from others import others
from pairwise import PUBLISHED, RANKS, SIGLIP_WIDTH, counts, draw, learnable, mean, rank_counts, setting
from torch import Tensor

from scl_kernels import SigmoidProblem, sigmoid_loss
from scl_kernels.pairwise.reference import MINIMUM_NORM


def plain(a: Tensor, b_all: Tensor, scale: Tensor, bias: Tensor, weight: Tensor) -> Tensor:
    """Compute the loss of the first n of N rows with the whole (n, N) matrix, in the inputs' dtype."""
    a, b_all = (F.normalize(x, dim=1, eps=MINIMUM_NORM) for x in (a, b_all))
    sign = 2 * torch.eye(len(a), len(b_all), dtype=a.dtype, device=a.device) - 1
    return -(weight[: len(a), None] * F.logsigmoid(sign * (scale * (a @ b_all.T) + bias))).sum()


def workloads() -> Iterator[Workload]:
    """Yield one workload per N, which is x."""
    width, dtype = setting()
    if device() == "cuda":  # first, since it has targets, and time may run out
        yield _workload(PUBLISHED, 1, SIGLIP_WIDTH, dtype, "published")
    for count in counts():
        yield _workload(count, 1, width, dtype, "")
    for count in rank_counts():
        yield _workload(count, RANKS, width, dtype, "rank")


def _workload(count: int, ranks: int, width: int, dtype: torch.dtype, case: str) -> Workload:
    scale, bias, weight = learnable(10.0), learnable(-10.0), mean(count)
    a_all, b_all = draw(count, width, dtype)
    a, b = (x[: count // ranks].clone().requires_grad_() for x in (a_all, b_all))
    problem = SigmoidProblem(a, b, a_all, b_all, scale, bias, 0, weight)
    eager = (a, b if ranks == 1 else torch.cat([b, b_all[len(b) :]]), scale, bias, weight)
    return Workload(
        count,
        {"size": len(a) * count * width, "ranks": ranks, "width": width, "dtype": str(dtype)},
        [a, b, scale, bias],
        {
            **implementations(partial(sigmoid_loss, problem)),
            **(others("siglip_kernel", a, b, scale, bias) if ranks == 1 else {}),
            "eager": partial(plain, *eager),
            "compile": partial(torch.compile(plain), *eager),
        },
        case=case,
    )
