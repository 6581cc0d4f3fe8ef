"""Benchmark of `masked_gather`: all patches of a batch of 288-pixel images and their masked views, bf16 on a GPU."""

from collections.abc import Iterator
from functools import partial

import torch
from harness import Workload, device, implementations

from scl_kernels import CLASS_ROW, masked_gather
from scl_kernels.masked_gather.inputs import Inputs
from scl_kernels.masked_gather.reference import plain_masked_gather

EPS = 1e-5

PATCHES = 324
"""18 x 18 patches of an image of 288 pixels."""
KEPT = 64
"""Patches that remain of them when 80 % are dropped."""


def workloads() -> Iterator[Workload]:
    """Yield one workload per number of images; x is the number of tokens."""
    gpu = device() == "cuda"
    width, dtype = (768, torch.bfloat16) if gpu else (256, torch.float32)
    for images in (2, 8, 32, 128, 512) if gpu else (2, 8):
        generator = torch.Generator().manual_seed(images)
        shapes = [(images * PATCHES, width), (PATCHES + 1, width), (8, width), *[(width,)] * 4]
        tables = [torch.randn(s, generator=generator).to(device(), dtype).requires_grad_() for s in shapes]
        views = []
        for kept in (PATCHES, KEPT):
            drawn = torch.rand(images, PATCHES, generator=generator).argsort(1)[:, :kept].sort(1).values
            head = torch.full((images, 1), CLASS_ROW)
            source = torch.cat([head, drawn + PATCHES * torch.arange(images).unsqueeze(1)], 1)
            views.append((source.flatten(), torch.cat([torch.zeros_like(head), drawn + 1], 1).flatten()))
        source, position_id = (torch.cat(parts).to(device()) for parts in zip(*views, strict=True))
        inputs = Inputs(*tables, source, position_id, torch.full_like(source, -1), EPS)
        yield Workload(
            source.shape[0],
            {
                "images": images,
                "rows": images * PATCHES,
                "size": source.shape[0] * width,
                "width": width,
                "dtype": str(dtype),
            },
            tables,
            {
                **implementations(partial(masked_gather, *inputs)),
                "eager": partial(plain_masked_gather, inputs),
                "compile": partial(torch.compile(plain_masked_gather), inputs),
            },
        )
