"""Benchmark of `gather_rows`: the rows of a batch's fusion pairs out of its views, bf16 on a GPU."""

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from harness import Workload, device, implementations

from scl_kernels import gather_rows

TOKENS = 325
"""Rows of a complete image of 288 pixels; two pairs of each image read it, a third reads its neighbor."""


def workloads() -> Iterator[Workload]:
    """Yield one workload per number of images; x is the number of rows gathered."""
    gpu = device() == "cuda"
    width, dtype = (768, torch.bfloat16) if gpu else (256, torch.float32)
    for images in (8, 64, 512) if gpu else (2, 8):
        generator = torch.Generator().manual_seed(images)
        shape = (images * TOKENS, width)
        rows = torch.randn(shape, generator=generator).to(device(), dtype).requires_grad_()
        own = torch.arange(images * TOKENS)
        index = torch.cat([own, own, own.roll(TOKENS)]).to(device())
        size = index.shape[0] * width
        yield Workload(
            index.shape[0],
            {"images": images, "rows": len(rows), "size": size, "width": width, "dtype": str(dtype)},
            [rows],
            {
                **implementations(partial(gather_rows, rows, index)),
                "eager": partial(F.embedding, index, rows),
                "compile": partial(torch.compile(F.embedding), index, rows),
            },
        )
