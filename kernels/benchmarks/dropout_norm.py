"""Benchmark of `dropout_add_norm`: ends of post-norm sub-layers, residuals of a pre-norm tower, bf16 on a GPU."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from harness import Workload, device, implementations
from torch import Tensor

from scl_kernels import dropout_add_norm
from scl_kernels.backend import Backend

EPS = 1e-5


def ours(*arguments: Any, backend: Backend = "auto") -> Tensor:
    """Return the normalized rows alone, as post-norm layers read them."""
    *tensors, keys, dropout = arguments
    return dropout_add_norm(*tensors, keys, 1, dropout, EPS, backend=backend)[0]


def eager(branch: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, dropout: float) -> Tensor:
    """Compute what a model without the operation would, dropout from PyTorch's generator."""
    return F.layer_norm(F.dropout(branch, dropout) + residual, weight.shape, weight, bias, EPS)


def workloads() -> Iterator[Workload]:
    """Yield one workload per number of rows and share that is dropped; x is the number of rows."""
    gpu = device() == "cuda"
    width, dtype = (768, torch.bfloat16) if gpu else (256, torch.float32)
    for rows in (2_000, 20_000, 160_000) if gpu else (500, 2_000):
        for dropout in (0.1, 0.0):
            generator = torch.Generator().manual_seed(rows)
            shapes = [(rows, width)] * 2 + [(width,)] * 2
            tensors = [torch.randn(s, generator=generator).to(device(), dtype).requires_grad_() for s in shapes]
            keys = torch.randint(2**62, (rows,), generator=generator).to(device()) if dropout else None
            yield Workload(
                rows,
                {"rows": rows, "size": rows * width, "width": width, "dropout": dropout, "dtype": str(dtype)},
                tensors,
                {
                    **implementations(partial(ours, *tensors, keys, dropout)),
                    "eager": partial(eager, *tensors, dropout),
                    "compile": partial(torch.compile(eager), *tensors, dropout),
                },
            )
