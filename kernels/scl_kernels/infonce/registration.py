"""What the tools know of `infonce`: cases, compilations, memory, FLOPs."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from scl_kernels.backend import Backend
from scl_kernels.infonce.kernel import d_similarity_kernel, forward_combine_kernel, forward_kernel
from scl_kernels.infonce.operation import InfoNCEProblem, infonce, infonce_statistics
from scl_kernels.infonce.reference import plain_infonce
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
from scl_kernels.pairwise.cuts import forward_cuts
from scl_kernels.pairwise.duplicates import Treatment
from scl_kernels.pairwise.launch import COMBINE_ROWS
from scl_kernels.pairwise.tiles import similarity_tiles
from scl_kernels.pairwise.variants import TREATMENTS, loss_variants, shared_variants
from scl_kernels.registry import Operation, Variant, register
from scl_kernels.roofline import Account, Term, total
from scl_kernels.threeway import Comparison, compare


class Case(NamedTuple):
    """Sizes of a problem: local and global rows, width, offset, temperature, whether that is learned; duplicates."""

    local: int
    total: int
    width: int
    offset: int
    temperature: float = 0.07
    learnable: bool = True
    duplicates: Treatment = "negatives"


CASES: tuple[tuple[Case, ...], ...] = (
    (Case(1, 1, 7, 0),),
    (Case(5, 13, 40, 3), Case(0, 4, 16, 4, 0.03, False), Case(67, 131, 48, 60, 0.03, False)),
    (Case(130, 130, 144, 0),),
    (Case(33, 70, 256, 11), Case(3, 70, 512, 60), Case(2, 9, 768, 7)),
    (
        Case(1, 1, 7, 0, duplicates="ignore"),
        Case(67, 131, 48, 60, 0.03, False, "ignore"),
        Case(0, 4, 16, 4, duplicates="ignore"),
    ),
    (Case(33, 70, 256, 11, duplicates="ignore"),),
    (Case(5, 13, 40, 3, duplicates="positives"), Case(67, 131, 48, 60, 0.03, False, "positives")),
    (Case(33, 70, 256, 11, duplicates="positives"), Case(37, 37, 16, 0, duplicates="positives")),
    tuple(Case(n, n, 16, 0, duplicates="positives") for n in (2, 3, 4)),
)
"""Problems of one call. One sample; several problems of other sizes, one without local rows; more than one tile in
every direction; widths without masks; some of these with duplicates; few rows with several positives, where nothing
averages out."""
STEP = (Case(512, 2048, 512, 512), *[Case(512, 2048, 768, 0)] * 4)
"""A step's losses."""


PRODUCTS = {"forward": 2, "backward": 4}
"""Of (n, N) with D in either pass."""


def memory(local: int, ranks: int, width: int) -> list[Term]:
    """Return bytes of a rank's loss, see `memory_terms`."""
    everything = local * ranks
    tiles = similarity_tiles(torch.bfloat16, True, 90)
    splits = sum(cut.splits for cut in forward_cuts([(local, everything, width)] * 2, tiles))
    return memory_terms(
        local,
        ranks,
        width,
        Term("partial results of the forward pass, 4 fp32 planes", 4 * 4 * splits * local),
        Term("statistics and gathered log-sum-exps, fp32", 4 * (6 * local + 2 * everything)),
    )


PUBLISHED = published_remark(
    8192, 8, 512, memory(8192, 8, 512), PRODUCTS, "inf_cl: 0.36 GB, and ten products in tf32, 11.1 ms at its peak"
)


def draw(case: Case, dtype: torch.dtype, device: str) -> InfoNCEProblem:
    """Draw a problem from a fixed seed; partners are alike, so that the loss is neither 0 nor that of noise."""
    generator = torch.Generator().manual_seed(case.total)
    a_all = torch.randn(case.total, case.width, generator=generator)
    b_all = (a_all + torch.randn(case.total, case.width, generator=generator)).to(device, dtype)
    weight = (torch.rand(case.total, generator=generator) * 2 / case.total).to(device)
    temperature = torch.tensor(case.temperature, device=device, requires_grad=True)
    part = slice(case.offset, case.offset + case.local)
    a_all = a_all.to(device, dtype)
    a, b = (x[part].clone().requires_grad_() for x in (a_all, b_all))
    divisor = temperature if case.learnable else case.temperature
    duplicates = draw_duplicates(case.total, case.duplicates, device)
    return InfoNCEProblem(a, b, a_all, b_all, divisor, case.offset, weight, duplicates)


def _whole(problem: InfoNCEProblem, dtype: torch.dtype) -> Iterator[Tensor]:
    """Yield the local rows' gradients and the temperature's of the global loss in dtype, by plain PyTorch."""
    a, b = (x.detach().to(dtype).requires_grad_() for x in (problem.a_all, problem.b_all))
    temperature = torch.as_tensor(problem.temperature, device=a.device).detach().to(dtype).requires_grad_()
    loss = plain_infonce(a, b, temperature, problem.weight_all.to(dtype), *all_pairs(problem.duplicates, a.shape[0]))
    d_a, d_b, d_temperature = torch.autograd.grad(loss, (a, b, temperature))
    part = slice(problem.offset, problem.offset + problem.a.shape[0])
    yield from (d_a[part], d_b[part])
    if problem.a.shape[0] == a.shape[0]:  # only then is the local share the whole
        yield loss.detach()
        yield d_temperature


def compare_case(cases: Sequence[Case], dtype: torch.dtype, device: str, backend: Backend) -> list[Comparison]:
    """Compare losses (where one rank holds all rows) and gradients of problems in one launch."""
    problems = [draw(case, dtype, device) for case in cases]
    doubled = [(p.a_all.double(), p.b_all.double(), float(torch.as_tensor(p.temperature).detach())) for p in problems]
    everywhere = infonce_statistics(
        [
            InfoNCEProblem(a, b, a, b, t, 0, p.weight_all, p.duplicates)
            for p, (a, b, t) in zip(problems, doubled, strict=True)
        ],
        backend="torch",
    )
    statistics = infonce_statistics(problems, backend=backend)
    row_lse, col_lse = ([getattr(s, n).float() for s in everywhere] for n in ("row_lse", "col_lse"))
    values = infonce(problems, row_lse, col_lse, statistics, backend=backend)
    out = []
    for k, problem in enumerate(problems):
        out += _compare_problem(f"problem {k}", problem, values[k], dtype)
        part = slice(problem.offset, problem.offset + problem.a.shape[0])
        for name, plain in (("row_lse", row_lse[k]), ("col_lse", col_lse[k])):
            exact = getattr(everywhere[k], name)[part]
            out.append(compare(f"problem {k}: {name}", getattr(statistics[k], name), plain[part], exact))
    return out


def _compare_problem(title: str, problem: InfoNCEProblem, value: Tensor, dtype: torch.dtype) -> list[Comparison]:
    """Compare gradients, and the loss where the local rows are all rows.

    The three terms of dS cancel (exactly, for one sample), so a few roundings of the terms are allowed.
    """
    leaves, temperature = [problem.a, problem.b], float(torch.as_tensor(problem.temperature).detach())
    if isinstance(problem.temperature, Tensor):
        leaves.append(problem.temperature)
    d_a, d_b, *d_temperature = torch.autograd.grad(value, leaves, retain_graph=True)
    got = [d_a, d_b, value.detach(), *d_temperature]
    plain, exact = _whole(problem, dtype), _whole(problem, torch.float64)
    rounding = 4 * torch.finfo(torch.float32).eps / temperature
    noise = {"a": rounding, "b": rounding, "loss": rounding, "temperature": rounding / temperature}
    return [
        compare(f"{title}: {name}", g, p, e, noise[name])
        for name, g, p, e in zip(noise, got, plain, exact, strict=False)
    ]


def variants(name: str, architecture: int) -> Iterator[Variant]:
    """Yield the loss's own kernels, and those that all pairwise losses launch."""
    types = {"temperatures": "*fp32"}
    yield from loss_variants("infonce", name, architecture, forward_kernel, d_similarity_kernel, types)
    if name == "fp32":
        types = {"table": "*i64", "partial": "*fp32", "plane": "i32", "out": "*fp32", "all_rows": "i32"}
        for suffix, duplicates in TREATMENTS.items():
            constants = {"BLOCK_ROWS": COMBINE_ROWS, "DUPLICATES": duplicates}
            title = f"infonce_forward_combine/fp32{suffix}"
            yield Variant(title, forward_combine_kernel, types, constants, num_warps=1)
    yield from shared_variants(name)


def accounts() -> Iterator[Account]:
    """Yield the memory of a rank's loss.

    The eager account is a lower bound: that loss of local against global rows lacks the gradient of local rows as
    negatives of other ranks; eager code that is exact forms N x N on every rank.
    """
    everything, matrix = LOCAL * RANKS, LOCAL * LOCAL * RANKS
    for size, width in WIDTHS.items():
        ours = memory(LOCAL, RANKS, width)
        eager = [
            Term("normalized global rows, bf16, two", 2 * everything * width * 2),
            Term("log-softmax kept for backward, fp32, two directions", 2 * matrix * 4),
            Term("backward of one direction: fp32 gradient of the logits", matrix * 4),
            Term("backward of one direction: its bf16 copy", matrix * 2),
            ours[-1],
        ]
        whole = everything**2 * 4 * 3
        remarks = [
            "eager N x N in fp32 on every rank (two kept directions and one gradient): "
            f"{whole / 1e9:.1f} GB, {whole / total(ours):,.0f} times as much",
            duplicates_remark(everything, matrix),
        ]
        product = 2 * 2 * LOCAL * everything * width
        title = f"infonce, {size}: n = {LOCAL:,}, N = {everything:,}, D = {width}, bf16, {RANKS} ranks"
        yield Account(
            title,
            "needs",
            ours,
            eager,
            50,
            [
                *remarks,
                *flops_remarks(product, 2 * product),
                PUBLISHED,
            ],
        )


register(
    Operation(
        "infonce",
        functions=(infonce, infonce_statistics),
        cases=CASES,
        compare=compare_case,
        variants=variants,
        device_cases=(STEP, (Case(4096, 8192, 512, 1024),)),  # the last is wide and of many blocks
        accounts=accounts,
        work=partial(work, products=PRODUCTS),
    )
)
