"""Duplicates in the cases of the pairwise losses' three-way comparisons."""

import torch
from torch import Tensor

from scl_kernels.pairwise.duplicates import Duplicates, Treatment, duplicates_of, same_rows


def draw_duplicates(total: int, treatment: Treatment, device: str) -> Duplicates | None:
    """Draw two identities a row from a fixed seed, each shared by about two rows; None where all are negatives."""
    if treatment == "negatives":
        return None
    generator = torch.Generator().manual_seed(total)
    ids = torch.randint(max(1, total // 2), (2, total), generator=generator)
    return duplicates_of(ids.to(device), treatment)


def all_pairs(duplicates: Duplicates | None, total: int) -> tuple[Tensor | None, Treatment]:
    """Return (N, N) bool, which rows are duplicates, and what they are: what a plain definition takes."""
    if duplicates is None:
        return None, "negatives"
    own = torch.arange(total, device=duplicates.numbers.device)[:, None]
    return same_rows(duplicates.numbers, own), duplicates.treatment
