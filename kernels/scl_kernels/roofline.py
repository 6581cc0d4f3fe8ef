"""Bytes, FLOPs and memory of the kernels and of what they replace, as arithmetic that can be read and printed.

Counts are per pass over the data, in bytes per element of an (N, D) buffer; tables that fit in the L2 cache (positions,
temporal or type embeddings) and per-token integers are counted where they are not negligible.
"""

from typing import NamedTuple

import torch

from scl_kernels.infonce_launch import backward_cuts, forward_cuts, similarity_tiles

SORT_BYTES_PER_INDEX = 4 * 2 * (4 + 8)
"""A radix sort of int32 keys with int64 values: four passes that read and write both."""


class Device(NamedTuple):
    """Published peaks of a device and its limits per multiprocessor."""

    name: str
    bytes_per_second: float
    flops: float
    """bf16 with fp32 sums, dense."""
    shared_per_block: int
    shared_per_sm: int
    registers_per_sm: int = 65536
    warps_per_sm: int = 64


DEVICES = {
    80: Device("A100 SXM 80 GB", 2.039e12, 312e12, 163 * 1024, 164 * 1024),
    90: Device("H100 SXM 80 GB", 3.35e12, 989e12, 227 * 1024, 228 * 1024),
}


class Term(NamedTuple):
    """One step of an account: what it is and its amount."""

    what: str
    amount: float


def gather_terms(count: int, rows: int, width: int, itemsize: int) -> tuple[list[Term], list[Term]]:
    """Return bytes of the operation and of the eager chain, forward and backward, as lists of terms.

    Args:
        count: Tokens written, N.
        rows: Rows of the table, R.
        width: D.
        itemsize: Bytes of an element.
    """
    one, table = count * width * itemsize, rows * width * itemsize
    ours = [
        Term("forward: read rows, write y", 2 * one),
        Term("forward: three indices, two statistics", count * (3 * 8 + 2 * 4)),
        Term("backward: read dy and rows, write dx", 3 * one),
        Term("backward: indices and statistics", count * (3 * 8 + 2 * 4)),
        Term("backward: the segment sum reads dx for three tables", 3 * one),
        Term("backward: a sort of 3 N int32 keys", 3 * count * SORT_BYTES_PER_INDEX),
        Term("backward: write the rows' gradient", table),
    ]
    eager = [
        Term("forward: rows[source], read and write", 2 * one),
        Term("forward: where(class), where(mask), read and write each", 4 * one),
        Term("forward: position[id], extra[id], write each", 2 * one),
        Term("forward: two additions, two reads and a write each", 6 * one),
        Term("forward: LayerNorm, read and write", 2 * one),
        Term("backward: LayerNorm dx (dy, x, dx), dweight and dbias (dy, x)", 5 * one),
        Term("backward: two wheres, two branches each, read and write", 8 * one),
        Term("backward: class and mask row, sum over tokens", 2 * one),
        Term("backward: three scatters read dx", 3 * one),
        Term("backward: write the rows' gradient", table),
    ]
    return ours, eager


def total(terms: list[Term]) -> float:
    """Add an account up."""
    return sum(term.amount for term in terms)


def infonce_flops(local: int, everything: int, width: int) -> tuple[float, float]:
    """Return forward and backward FLOPs of one problem, both directions: one product, and two."""
    product = 2 * 2 * local * everything * width
    return product, 2 * product


def infonce_memory_terms(local: int, ranks: int, width: int) -> tuple[list[Term], list[Term]]:
    """Return bytes on top of the bf16 inputs, of the operation and of the eager loss of local against global rows.

    The eager account is a lower bound: that loss lacks the gradient of local rows as negatives of other ranks; eager
    code that is exact forms N x N on every rank.
    """
    everything = local * ranks
    sizes = [(local, everything, width)] * 2
    tiles = similarity_tiles(torch.bfloat16, True, 90)
    forward = sum(cut.splits * local for cut in forward_cuts(sizes, tiles))
    cuts, _ = backward_cuts(sizes, torch.bfloat16, even=True)
    gradients = sum(cut.splits * local * width for cut in cuts)
    matrix, outputs = local * everything, Term("gradients of a and b, bf16", 2 * local * width * 2)
    ours = [
        Term("partial log-sum-exps, three fp32 planes", 4 * 3 * forward),
        Term("a block of dS of either direction, bf16", 2 * sum(cut.rows * cut.span for cut in cuts)),
        Term("partial gradients, fp32", 4 * gradients),
        Term("inverse norms, fp32", 4 * 2 * (local + everything)),
        Term("statistics and gathered log-sum-exps, fp32", 4 * (5 * local + 2 * everything)),
        outputs,
    ]
    eager = [
        Term("normalised global rows, bf16, two", 2 * everything * width * 2),
        Term("log-softmax kept for backward, fp32, two directions", 2 * matrix * 4),
        Term("backward of one direction: fp32 gradient of the logits", matrix * 4),
        Term("backward of one direction: its bf16 copy", matrix * 2),
        outputs,
    ]
    return ours, eager
