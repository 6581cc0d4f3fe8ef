"""What the benchmarks of the pairwise losses share: rows, and the size of a rank's problem."""

import torch
from harness import device
from torch import Tensor

RANKS = 64


def draw(count: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return (N, D) rows of both modalities from a fixed seed."""
    generator = torch.Generator().manual_seed(count)
    a, b = (torch.randn(count, width, generator=generator).to(device(), dtype) for _ in range(2))
    return a, b


def learnable(value: float) -> Tensor:
    """Return a learnable () fp32 number."""
    return torch.tensor(value, device=device(), requires_grad=True)


def mean(count: int) -> Tensor:
    """Return (N,) weights of a mean."""
    return torch.full((count,), 1 / count, device=device())


PUBLISHED = 65536
"""Samples at which other packages publish memory and time (kernels/README.md)."""
PUBLISHED_RANKS = 8
"""Ranks of `inf_cl`'s figure."""
SIGLIP_WIDTH = 768
"""Width of the rows in siglip-kernel's examples."""


def setting() -> tuple[int, torch.dtype]:
    """Return the width and the dtype: D = 512 in bf16 on a GPU."""
    return (512, torch.bfloat16) if device() == "cuda" else (128, torch.float32)


def counts() -> tuple[int, ...]:
    """Return the numbers of samples of one process."""
    return (256, 1024, 2048, 4096, 16384, 32768) if device() == "cuda" else (128, 512)


def rank_counts() -> tuple[int, ...]:
    """Return the numbers of samples of all RANKS."""
    return (4096, 65536) if device() == "cuda" else (512,)
