"""Benchmark of `infonce`: the contrastive loss of one process over N samples, D = 512, bf16 on a GPU."""

from collections.abc import Iterator
from functools import partial

import torch
from harness import Workload, device

from scl_kernels.infonce import infonce_single
from scl_kernels.threeway import plain_infonce


def workloads() -> Iterator[Workload]:
    """Yield one workload per N, which is x."""
    gpu = device() == "cuda"
    width, dtype = (512, torch.bfloat16) if gpu else (128, torch.float32)
    for count in (256, 1024, 4096, 16384, 32768) if gpu else (128, 512):
        generator = torch.Generator().manual_seed(count)
        drawn = [torch.randn(count, width, generator=generator).to(device(), dtype) for _ in range(2)]
        temperature = torch.tensor(0.07, device=device(), requires_grad=True)
        inputs = [*(x.requires_grad_() for x in drawn), temperature]
        weight = torch.full((count,), 1 / count, device=device())
        yield Workload(
            count,
            {"size": count * count * width, "width": width, "dtype": str(dtype)},
            inputs,
            {
                "ours": partial(infonce_single, *inputs, weight),
                **({"triton": partial(infonce_single, *inputs, weight, backend="triton")} if gpu else {}),
                "eager": partial(plain_infonce, *inputs, weight),
                "compile": partial(torch.compile(plain_infonce), *inputs, weight),
            },
        )
