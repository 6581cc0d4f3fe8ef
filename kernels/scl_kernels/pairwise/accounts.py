"""Bytes and FLOPs that the pairwise losses share."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from scl_kernels.pairwise.cuts import backward_cuts
from scl_kernels.roofline import DEVICES, Term, Work, total

LOCAL, RANKS = 1024, 64
"""The setting of the accounts: local rows, and ranks that have as many."""
WIDTHS = {"base": 512, "large": 768}
"""Widths of the projections in the published models."""


def memory_terms(local: int, ranks: int, width: int, *more: Term) -> list[Term]:
    """Return bytes of bf16 rows' loss and gradients on top of its inputs.

    Args:
        local: n.
        ranks: N / n.
        width: D.
        more: What the loss itself needs.
    """
    everything = local * ranks
    cuts, _ = backward_cuts([(local, everything, width)] * 2, torch.bfloat16, even=True)
    return [
        *more,
        Term("a block of dS of either direction, bf16", 2 * sum(cut.rows * cut.span for cut in cuts)),
        Term("partial gradients of a row of blocks, fp32", 4 * sum(cut.splits * cut.rows * width for cut in cuts)),
        Term("inverse norms, fp32", 4 * 2 * (local + everything)),
        Term("gradients of a and b, bf16", 2 * local * width * 2),
    ]


def duplicates_remark(everything: int, matrix: int) -> str:
    """Return what duplicates that are no negatives need on top, for N global rows and n N pairs."""
    ours = 4 * (2 * everything + 2 * everything)
    return (
        f"with duplicates left out or as positives: {ours / 1e6:.1f} MB more (two int32 numbers, a count and "
        f"a share of each global row); eager code {matrix / 1e6:.0f} MB (a mask, a byte a pair)"
    )


def flops_remarks(forward: float, backward: float) -> list[str]:
    """Return what FLOPs take at the devices' peaks, a line each."""
    lines = []
    for device in DEVICES.values():
        times = " and ".join(f"{1e3 * flops / device.flops:.2f} ms" for flops in (forward, backward))
        lines.append(f"{forward / 1e9:.0f} and {backward / 1e9:.0f} GFLOP; at {device.name}'s peak: {times}")
    return lines


REACHED = 0.66
"""Share of an H100's bf16 peak that the tiles can reach (kernels/README.md)."""


def published_remark(
    local: int, ranks: int, width: int, memory: Sequence[Term], products: Mapping[str, int], theirs: str
) -> str:
    """Return memory and time at the shape at which another package publishes its own, by arithmetic.

    Args:
        local: n.
        ranks: N / n.
        width: D.
        memory: At that shape.
        products: Of the forward and of the backward pass.
        theirs: The package and its figures.
    """
    flops = 2 * local * local * ranks * width * (products["forward"] + products["backward"])
    least = 1e3 * flops / DEVICES[90].flops
    return (
        f"n = {local:,}, N = {local * ranks:,}, D = {width}: {total(memory) / 1e9:.3f} GB, {flops / 1e12:.1f} TFLOP, "
        f"{least:.1f} ms at {DEVICES[90].name}'s peak, {least / REACHED:.1f} ms at {REACHED:.0%} of it; {theirs}"
    )


def work(x: int, config: Mapping[str, Any], mode: str, products: Mapping[str, int]) -> Work:
    """Return a row's FLOPs: `size` = n N D of its config, two operations each, `products` in either mode."""
    count = products["forward"] + products["backward"] if mode == "full" else products[mode]
    return Work("FLOPs", 2 * count * config["size"], target=0.5 if mode == "full" and x >= 32768 else None)
