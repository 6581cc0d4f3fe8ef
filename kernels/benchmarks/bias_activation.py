"""Benchmark of `bias_activation`: the inner rows of feed-forward layers, bf16 on a GPU."""

from collections.abc import Iterator
from functools import partial

import torch
from harness import Workload, device, implementations

from scl_kernels import bias_activation
from scl_kernels.bias_activation.reference import bias_activation_reference


def workloads() -> Iterator[Workload]:
    """Yield one workload per number of rows and activation; x is the number of rows."""
    gpu = device() == "cuda"
    width, dtype = (3072, torch.bfloat16) if gpu else (512, torch.float32)
    for rows in (2_000, 20_000, 80_000) if gpu else (500, 2_000):
        for activation in ("quick_gelu", "gelu"):
            generator = torch.Generator().manual_seed(rows)
            shapes = ((rows, width), (width,))
            tensors = [torch.randn(s, generator=generator).to(device(), dtype).requires_grad_() for s in shapes]
            plain = partial(bias_activation_reference, activation=activation)
            yield Workload(
                rows,
                {"rows": rows, "size": rows * width, "width": width, "activation": activation, "dtype": str(dtype)},
                tensors,
                {
                    **implementations(partial(bias_activation, *tensors, activation)),
                    "eager": partial(plain, *tensors),
                    "compile": partial(torch.compile(plain), *tensors),
                },
            )
