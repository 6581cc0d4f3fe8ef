"""Compilations of the pairwise losses' kernels that are held against budgets."""

import itertools
from collections.abc import Iterator
from typing import Any

import torch

from scl_kernels.pairwise import kernel, launch
from scl_kernels.pairwise.duplicates import Treatment
from scl_kernels.pairwise.reference import MINIMUM_NORM
from scl_kernels.pairwise.tiles import (
    TRITON_DTYPE,
    gradient_constants,
    gradient_tiles,
    similarity_constants,
    similarity_tiles,
    workspace_dtype,
)
from scl_kernels.registry import DTYPES, Variant

KINDS = {"even": True, "uneven": False}
"""Whether tiles need no masks over D."""
TREATMENTS: dict[str, Treatment] = {"": "negatives", "/ignore": "ignore", "/positives": "positives"}
"""What duplicates are to each other."""


def _block_types(name: str) -> dict[str, str]:
    workspace = "*bf16" if workspace_dtype(DTYPES[name]) == torch.bfloat16 else "*fp32"
    return {"table": "*i64", "workspace": workspace, "block_row": "i32", "block_column": "i32"}


def loss_variants(
    loss: str,
    name: str,
    architecture: int,
    forward: Any,
    d_similarity: Any,
    types: dict[str, str],
    of_d_similarity: dict[str, str] | None = None,
) -> Iterator[Variant]:
    """Yield a loss's own two tile kernels.

    Args:
        loss: Its name.
        name: Of DTYPES.
        architecture: 80 or 90.
        forward: The kernel of the forward pass.
        d_similarity: The kernel that writes dS.
        types: What both take beside the table.
        of_d_similarity: What that kernel takes on top.
    """
    for (kind, even), (suffix, duplicates) in itertools.product(KINDS.items(), TREATMENTS.items()):
        tiles = similarity_tiles(DTYPES[name], even, architecture, duplicates)
        constants = similarity_constants(DTYPES[name], tiles, even=even, duplicates=duplicates)
        given = {"table": "*i64", **types, "partial": "*fp32", "plane": "i32"}
        yield Variant(f"{loss}_forward/{name}/{kind}{suffix}", forward, given, constants, **tiles.options)
        given = {**_block_types(name), **types, **(of_d_similarity or {})}
        yield Variant(f"{loss}_d_similarity/{name}/{kind}{suffix}", d_similarity, given, constants, **tiles.options)


def shared_variants(name: str) -> Iterator[Variant]:
    """Yield the kernels that all losses launch, for a name of DTYPES."""
    dtype = DTYPES[name]
    norms = {"DTYPE": TRITON_DTYPE[dtype], "MINIMUM": MINIMUM_NORM, "BLOCK_K": launch.BLOCK_STREAM}
    constants = {**norms, "VECTORS": "shifts", "BLOCK_ROWS": launch.PREPARE_ROWS}
    yield Variant(f"pairwise_prepare/{name}", kernel.prepare_kernel, {"table": "*i64"}, constants)
    types = {**_block_types(name), "partial": "*fp32"}
    for kind, even in KINDS.items():
        for tiles in dict.fromkeys(gradient_tiles(dtype, even, wide=wide) for wide in (False, True)):
            constants = gradient_constants(dtype, tiles, even=even)
            title = f"pairwise_gradient/{name}/{kind}/{tiles.block_n}"
            yield Variant(title, kernel.gradient_kernel, types, constants, **tiles.options)
    types = {"table": "*i64", **dict.fromkeys(("temperatures", "d_loss", "partial"), "*fp32"), "block_row": "i32"}
    constants = {**norms, "BLOCK_ROWS": launch.COMBINE_ROWS}
    yield Variant(f"pairwise_backward_combine/{name}", kernel.backward_combine_kernel, types, constants)
