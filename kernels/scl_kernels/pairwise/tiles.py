"""Tiles of the pairwise losses' matrix products, and the compile-time arguments that follow from them."""

from typing import Any, NamedTuple

import torch
import triton.language as tl

from scl_kernels.backend import interpreting
from scl_kernels.pairwise.duplicates import Treatment

TRITON_DTYPE = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
WIDE = 256
"""Columns of a wide tile of `gradient_kernel`, which has as many rows as `PADDING`."""
MULTIPLE = 256
"""Widths that are multiples of it (all published ones) need no masks over D; a multiple of every tile's side."""


class Tiles(NamedTuple):
    """Sizes of a matrix product's tiles: (block_m, block_n) of the result, block_k along the sum."""

    block_m: int
    block_n: int
    block_k: int
    num_stages: int
    max_registers: int | None = None
    """128 makes room for two programs of 8 warps on a multiprocessor, one of which computes while the other waits."""

    @property
    def options(self) -> dict[str, int]:
        """What a launch and the compiler take."""
        bound = {} if self.max_registers is None else {"maxnreg": self.max_registers}
        return {"num_warps": 8, "num_stages": self.num_stages, **bound}


def similarity_tiles(dtype: torch.dtype, even: bool, architecture: int, duplicates: Treatment = "negatives") -> Tiles:
    """Return the tiles of S in both passes, the largest found that spill nowhere; masks and fp32 want registers.

    Args:
        dtype: Of the rows.
        even: See `Sides`.
        architecture: 80 for an A100, 90 for an H100; the former would spill with 128 registers.
        duplicates: What duplicates are to each other.
    """
    if dtype == torch.float32:
        return Tiles(64, 64, 32, 2) if even else Tiles(64, 32, 32, 2)
    if not even:
        return Tiles(64, 64, 64, 2)
    # to tell a duplicate from the row itself, or fp16's positives, takes registers that a wider tile does not have
    narrow = duplicates == "ignore" or (duplicates == "positives" and dtype == torch.float16)
    columns = 64 if narrow else 128
    return Tiles(128, columns, 64, 3, 128 if architecture >= 90 else None)


def gradient_tiles(dtype: torch.dtype, even: bool, *, wide: bool) -> Tiles:
    """Return the tiles of dS y; `wide` ones read less per product, but are too few where there are few local rows."""
    if dtype == torch.bfloat16 and even:
        return Tiles(128, WIDE if wide else 128, 64, 3)
    return Tiles(64, 64, 32, 3)


def architecture(device: torch.device) -> int:
    """Return 10 times the major compute capability and the minor one; an A100's 80 without a GPU."""
    if device.type != "cuda":
        return 80
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def precision(dtype: torch.dtype) -> str:
    """Return how fp32 operands are multiplied; fp16 gradients use one tf32 product, which is exact for fp16 rows."""
    return "tf32x3" if dtype == torch.float32 else "tf32"


def workspace_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the precision of dS as an operand: that of bf16 rows, else fp32, since fp16 cannot hold 1 / N."""
    return torch.bfloat16 if dtype == torch.bfloat16 else torch.float32


def common_constants(dtype: torch.dtype, *, even: bool) -> dict[str, Any]:
    """Return the compile-time arguments of every tile kernel; `even`: see `Sides`."""
    return {"DTYPE": TRITON_DTYPE[dtype], "EVEN": even, "PRECISION": precision(dtype), "WIDEN": interpreting()}


def similarity_constants(
    dtype: torch.dtype, tiles: Tiles, *, even: bool, duplicates: Treatment = "negatives"
) -> dict[str, Any]:
    """Return the compile-time arguments of the forward kernel and of the one that writes dS."""
    sizes = {"BLOCK_M": tiles.block_m, "BLOCK_N": tiles.block_n, "BLOCK_K": tiles.block_k, "DUPLICATES": duplicates}
    return common_constants(dtype, even=even) | sizes


def gradient_constants(dtype: torch.dtype, tiles: Tiles, *, even: bool) -> dict[str, Any]:
    """Return the compile-time arguments of the kernel that multiplies dS with y."""
    sizes = {"BLOCK_M": tiles.block_m, "BLOCK_K": tiles.block_k, "BLOCK_D": tiles.block_n}
    return common_constants(dtype, even=even) | sizes
