"""What the tools know of `sigmoid_loss`: cases, compilations, memory, FLOPs."""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from scl_kernels.backend import Backend
from scl_kernels.pairwise.accounts import (
    LOCAL,
    RANKS,
    WIDTHS,
    duplicates_remark,
    flops_remarks,
    memory_terms,
    published_remark,
    work,
)
from scl_kernels.pairwise.cases import all_pairs, draw_duplicates
from scl_kernels.pairwise.cuts import backward_cuts
from scl_kernels.pairwise.duplicates import Treatment
from scl_kernels.pairwise.tiles import similarity_tiles
from scl_kernels.pairwise.variants import loss_variants
from scl_kernels.registry import Operation, Variant, register
from scl_kernels.roofline import Account, Term
from scl_kernels.sigmoid.kernel import d_similarity_kernel, forward_kernel
from scl_kernels.sigmoid.operation import SigmoidProblem, sigmoid_loss
from scl_kernels.sigmoid.reference import plain_sigmoid
from scl_kernels.sizes import cdiv
from scl_kernels.threeway import Comparison, compare


class Case(NamedTuple):
    """Sizes of a problem: local and global rows, width, offset; scale and bias (SigLIP starts from the default);
    duplicates.
    """

    local: int
    total: int
    width: int
    offset: int
    scale: float = 10.0
    bias: float = -10.0
    duplicates: Treatment = "negatives"


CASES = (
    Case(1, 1, 7, 0),
    Case(5, 13, 40, 3, 30.0, -4.0),
    Case(0, 4, 16, 4),
    Case(67, 131, 48, 60, 4.0, 1.0),
    Case(130, 130, 144, 0),
    Case(3, 70, 256, 60, 100.0, -15.0),
    Case(67, 131, 48, 60, 4.0, 1.0, "ignore"),
    Case(33, 70, 256, 11, duplicates="ignore"),
    Case(5, 13, 40, 3, 30.0, -4.0, "positives"),
    Case(33, 70, 256, 11, duplicates="positives"),
)
"""One sample; no local rows; primes; more than one tile in every direction; a width without masks; duplicates."""


D_LOSS = 0.8125
"""Gradient of the loss in the comparisons: no power of two, and no dtype rounds it."""
PRODUCTS = {"forward": 4, "backward": 0}
"""Of (n, N) with D in either pass, where gradients are asked for."""


def memory(local: int, ranks: int, width: int) -> list[Term]:
    """Return bytes of a rank's loss with its gradients, see `memory_terms`."""
    everything = local * ranks
    (cut, _), _ = backward_cuts([(local, everything, width)] * 2, torch.bfloat16, even=True)
    across = cdiv(min(cut.span, everything), similarity_tiles(torch.bfloat16, True, 90).block_n)
    return memory_terms(
        local,
        ranks,
        width,
        Term("partial sums of a row of blocks, 3 fp32 planes", 4 * 3 * across * cut.rows),
        Term("sums of every row, fp32", 4 * 3 * local),
    )


PUBLISHED = published_remark(
    65536,
    1,
    768,
    memory(65536, 1, 768),
    PRODUCTS,
    "siglip-kernel 0.1.2: 0.64 GB at 54.3 ms, or 1.4 GB at 48.8 ms",
)


def draw(case: Case, dtype: torch.dtype, device: str) -> SigmoidProblem:
    """Draw a problem from a fixed seed; partners are alike."""
    generator = torch.Generator().manual_seed(case.total)
    a_all = torch.randn(case.total, case.width, generator=generator)
    b_all = (a_all + torch.randn(case.total, case.width, generator=generator)).to(device, dtype)
    weight = (torch.rand(case.total, generator=generator) * 2 / case.total).to(device)
    scale, bias = (torch.tensor(value, device=device, requires_grad=True) for value in (case.scale, case.bias))
    part = slice(case.offset, case.offset + case.local)
    a_all = a_all.to(device, dtype)
    a, b = (x[part].clone().requires_grad_() for x in (a_all, b_all))
    duplicates = draw_duplicates(case.total, case.duplicates, device)
    return SigmoidProblem(a, b, a_all, b_all, scale, bias, case.offset, weight, duplicates)


def _whole(problem: SigmoidProblem, dtype: torch.dtype) -> list[Tensor]:
    """Return the local share, the local rows' gradients of the global loss, and scale's and bias's of the share."""
    given = (problem.a_all, problem.b_all, problem.scale, problem.bias)
    a, b, scale, bias = (x.detach().to(dtype).requires_grad_() for x in given)
    each = plain_sigmoid(a, b, scale, bias, *all_pairs(problem.duplicates, a.shape[0])) * problem.weight_all.to(dtype)
    part = slice(problem.offset, problem.offset + problem.a.shape[0])
    share, d_loss = each[part].sum(), torch.full_like(each.sum(), D_LOSS)
    d_a, d_b = torch.autograd.grad(each.sum(), (a, b), d_loss, retain_graph=True)
    return [share.detach(), d_a[part], d_b[part], *torch.autograd.grad(share, (scale, bias), d_loss)]


def compare_case(case: Case, dtype: torch.dtype, device: str, backend: Backend) -> list[Comparison]:
    """Compare the local share, with gradients and without, and all gradients.

    What is projected out of a row's gradient cancels, so a few roundings of the terms are allowed.
    """
    problem = draw(case, dtype, device)
    value = sigmoid_loss(problem, backend=backend)
    with torch.no_grad():
        alone = sigmoid_loss(problem, backend=backend)
    leaves = (problem.a, problem.b, problem.scale, problem.bias)
    got = [value.detach(), *torch.autograd.grad(value, leaves, torch.full_like(value, D_LOSS)), alone]
    names = ("loss", "a", "b", "scale", "bias", "loss without gradients")
    noise = 4 * torch.finfo(torch.float32).eps * case.scale
    plain, exact = _whole(problem, dtype), _whole(problem, torch.float64)
    return [compare(*four, noise) for four in zip(names, got, [*plain, plain[0]], [*exact, exact[0]], strict=True)]


def variants(name: str, architecture: int) -> Iterator[Variant]:
    """Yield the loss's own kernels; `infonce` has those that they share."""
    types = {"temperatures": "*fp32", "biases": "*fp32"}
    sums = {"sums": "*fp32", "plane": "i32"}
    yield from loss_variants("sigmoid", name, architecture, forward_kernel, d_similarity_kernel, types, sums)


def accounts() -> Iterator[Account]:
    """Yield the memory of a rank's loss; eager code forms the logits of its rows of `a` with all rows of `b`."""
    everything, matrix = LOCAL * RANKS, LOCAL * LOCAL * RANKS
    for size, width in WIDTHS.items():
        ours = memory(LOCAL, RANKS, width)
        eager = [
            Term("normalized global rows, bf16", everything * width * 2),
            Term("logits kept for backward, fp32", matrix * 4),
            Term("backward: fp32 gradient of the logits", matrix * 4),
            Term("backward: its bf16 copy", matrix * 2),
            Term("backward: gradient of all rows of b before ranks add them up, bf16", everything * width * 2),
            ours[-1],
        ]
        product = 2 * LOCAL * everything * width
        title = f"sigmoid, {size}: n = {LOCAL:,}, N = {everything:,}, D = {width}, bf16, {RANKS} ranks"
        remarks = [
            duplicates_remark(everything, matrix),
            *flops_remarks(*(product * PRODUCTS[one] for one in ("forward", "backward"))),
            PUBLISHED,
        ]
        yield Account(title, "needs", ours, eager, target=40, remarks=remarks)


register(
    Operation(
        "sigmoid",
        functions=(sigmoid_loss,),
        cases=CASES,
        compare=compare_case,
        variants=variants,
        device_cases=(Case(512, 2048, 512, 512), Case(4096, 8192, 512, 1024)),
        accounts=accounts,
        work=partial(work, products=PRODUCTS),
    )
)
