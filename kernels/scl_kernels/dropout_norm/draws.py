"""Dropout by counter: what is dropped is a function of a row's key, the site in the model and the column.

No generator is asked, so both passes, a resumed run and any split of the samples drop the same. A row's 64-bit key is
mixed with the site by the finalizer of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) into two words of 32 bits. A
column's word is a step of that row's Weyl sequence, mixed by MurmurHash3's finalizer (Appleby, 2011) with the second
word between its multiplications; its last shift is left out, since only the order of the words counts. The same
integers come out of PyTorch, of Triton and of plain Python.
"""

import torch
from torch import Tensor

from scl_kernels.dtypes import compute_dtype

GOLDEN_64 = 0x9E3779B97F4A7C15
MIX_64 = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
GOLDEN_32 = 0x9E3779B9
MIX_32 = (0x85EBCA6B, 0xC2B2AE35)
CHUNK_ELEMENTS = 2**17
"""Draws that are made at a time on the CPU, so that what they need stays in its cache."""


def signed(value: int, bits: int) -> int:
    """Return a whole number modulo 2^bits as PyTorch's integers of that size have it."""
    value %= 1 << bits
    return value - (1 << bits) if value >> (bits - 1) else value


def threshold(dropout: float) -> int:
    """Return the least signed 32-bit draw that is kept: shares of 2^-32 are exact."""
    return min(round(dropout * 2**32) - 2**31, 2**31 - 1)


def _shifted(x: Tensor, by: int, bits: int) -> Tensor:
    """Return an unsigned right shift, which PyTorch's signed integers lack."""
    return (x >> by).bitwise_and_((1 << (bits - by)) - 1)


def row_words(keys: Tensor, site: int) -> tuple[Tensor, Tensor]:
    """Mix keys (N,) int64 with a site into two words (N,) int32."""
    z = keys + signed(site * GOLDEN_64, 64)
    for shift, factor in zip((30, 27), MIX_64, strict=True):
        z = (z ^ _shifted(z, shift, 64)) * signed(factor, 64)
    z = z ^ _shifted(z, 31, 64)
    low, high = z.unsqueeze(1).view(torch.int32).unbind(1)
    return low, high


def kept(keys: Tensor, site: int, width: int, dropout: float) -> Tensor:
    """Return which elements dropout keeps.

    Args:
        keys: (N,) int64, one a row; equal keys at one site drop the same.
        site: Where in the model.
        width: D.
        dropout: Share that is dropped, below 1.

    Returns:
        (N, D) bool.
    """
    first, second = row_words(keys, site)
    steps = torch.arange(width, dtype=torch.int32, device=keys.device) * signed(GOLDEN_32, 32)
    found = torch.empty(len(keys), width, dtype=torch.bool, device=keys.device)
    rows = max(1, CHUNK_ELEMENTS // max(1, width)) if keys.device.type == "cpu" else max(1, len(keys))
    least = threshold(dropout)
    for start in range(0, len(keys), rows):
        part = slice(start, start + rows)
        x = first[part, None] + steps
        x.bitwise_xor_(_shifted(x, 16, 32)).mul_(signed(MIX_32[0], 32)).bitwise_xor_(second[part, None])
        x.bitwise_xor_(_shifted(x, 13, 32)).mul_(signed(MIX_32[1], 32))
        torch.ge(x, least, out=found[part])
    return found


def counter_dropout(x: Tensor, keys: Tensor | None, site: int, dropout: float) -> Tensor:
    """Drop elements by counter and scale the others by 1 / (1 - dropout).

    Args:
        x: (N, D).
        keys: (N,) int64, see `kept`; None only where nothing is dropped.
        site: Where in the model.
        dropout: Share that is dropped, below 1; at 0 the argument comes back.

    Raises:
        ValueError: There is something to drop and no key.
    """
    if dropout == 0:
        return x
    if keys is None:
        raise ValueError(f"dropout {dropout:g} needs the rows' keys, got None; pass (N,) int64")
    dtype = compute_dtype(x.dtype)  # a half type has no 1 / 0.9
    return (x.to(dtype) * kept(keys, site, x.shape[1], dropout).to(dtype).mul_(1 / (1 - dropout))).to(x.dtype)
