"""Symmetric InfoNCE over the global batch, in two calls, without an N x N matrix in either direction.

A rank first calls `infonce_statistics` on its local rows against the gathered ones, then the caller gathers the
log-sum-exps, then `infonce` gives the loss of the local rows and the exact gradient of the global loss with respect to
them. Nothing in here communicates.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from scl_kernels.backend import Backend, resolve
from scl_kernels.dtypes import compute_dtype
from scl_kernels.infonce import launch, reference
from scl_kernels.infonce.arguments import InfoNCEProblem, InfoNCEStatistics, check_problems
from scl_kernels.pairwise.duplicates import Treatment
from scl_kernels.pairwise.kernel import PADDING
from scl_kernels.pairwise.launch import sides
from scl_kernels.validation import check_tensor

__all__ = ["InfoNCEProblem", "InfoNCEStatistics", "infonce", "infonce_statistics"]

STATISTICS = "scl_kernels::infonce_statistics"
BACKWARD = "scl_kernels::infonce_backward"
_LISTS = "Tensor[] a, Tensor[] b, Tensor[] a_all, Tensor[] b_all"
_IN_THE_LOSS = ("row_lse", "col_lse", "diagonal", "expected")
"""Statistics that the loss and its gradient are made of."""
_DUPLICATES = "Tensor[]? numbers=None, str duplicates='negatives'"
torch.library.define(STATISTICS, f"({_LISTS}, Tensor temperature, int[] offset, str backend, {_DUPLICATES}) -> Tensor")
torch.library.define(
    BACKWARD,
    f"(Tensor d_loss, {_LISTS}, Tensor temperature, int[] offset, Tensor[] weight_all, Tensor[] row_lse_all, "
    f"Tensor[] col_lse_all, Tensor statistics, str backend, {_DUPLICATES}, Tensor[]? count=None) -> Tensor[]",
)


# One implementation for every device; `custom_op` would walk through all the lists in Python on every call.
@torch.library.impl(STATISTICS, "CompositeExplicitAutograd")
def _statistics(
    a: list[Tensor],
    b: list[Tensor],
    a_all: list[Tensor],
    b_all: list[Tensor],
    temperature: Tensor,
    offset: list[int],
    backend: str,
    numbers: list[Tensor] | None = None,
    duplicates: Treatment = "negatives",
) -> Tensor:
    """Return (6, sum of n): row_lse, col_lse, positive, expected, row_correct, col_correct of all problems in turn.

    `positive`: the diagonal, or where duplicates are positives the sum over them, half of either direction.
    """
    if backend == "triton":
        result = launch.statistics(sides(a, b, a_all, b_all, offset, numbers, duplicates), temperature)
        row, col = result.chunk(2, dim=1)
        return _merged(row, col, duplicates)
    out = []
    for k, local_rows in enumerate(a):
        rest = (temperature[k], offset[k], numbers[k] if numbers else None, duplicates)
        row = reference.side_statistics(reference.Side(local_rows, b_all[k], *rest))
        col = reference.side_statistics(reference.Side(b[k], a_all[k], *rest))
        out.append(_merged(row, col, duplicates))
    return torch.cat(out, dim=1)


def _merged(row: Tensor, col: Tensor, duplicates: Treatment) -> Tensor:
    """Merge both directions' statistics, (4, n) each."""
    positive = (row[1] + col[1]) / 2 if duplicates == "positives" else row[1]
    return torch.stack([row[0], col[0], positive, (row[3] + col[3]) / 2, row[2], col[2]])


@torch.library.register_fake(STATISTICS)
def _(a, b, a_all, b_all, temperature, offset, backend, numbers=None, duplicates="negatives"):
    return a[0].new_empty(6, sum(x.shape[0] for x in a), dtype=compute_dtype(a[0].dtype))


@torch.library.impl(BACKWARD, "CompositeExplicitAutograd")
def _gradients(
    d_loss: Tensor,
    a: list[Tensor],
    b: list[Tensor],
    a_all: list[Tensor],
    b_all: list[Tensor],
    temperature: Tensor,
    offset: list[int],
    weight_all: list[Tensor],
    row_lse_all: list[Tensor],
    col_lse_all: list[Tensor],
    statistics: Tensor,
    backend: str,
    numbers: list[Tensor] | None = None,
    duplicates: Treatment = "negatives",
    count: list[Tensor] | None = None,
) -> list[Tensor]:
    """Return the gradients of every a, then of every b."""
    sizes = [x.shape[0] for x in a]
    row_lse, col_lse = statistics[0].split(sizes), statistics[1].split(sizes)
    if backend == "triton":
        lists = (row_lse, col_lse, row_lse_all, col_lse_all, weight_all)
        row, col, row_all, col_all, weight = ([x.float().contiguous() for x in xs] for xs in lists)
        tasks = sides(a, b, a_all, b_all, offset, numbers, duplicates)
        share = (
            None
            if count is None
            else [F.pad(w / c, (0, PADDING.value)) for w, c in zip(weight, count, strict=True)] * 2
        )
        return launch.gradients(tasks, temperature, d_loss, weight * 2, share, row + col, col_all + row_all)
    d_a, d_b = [], []
    for k, scale in enumerate(d_loss):
        weights = weight_all[k].to(d_loss.dtype) * scale
        rest = (temperature[k], offset[k], numbers[k] if numbers else None, duplicates)
        row_side, col_side = reference.Side(a[k], b_all[k], *rest), reference.Side(b[k], a_all[k], *rest)
        several = count[k] if count else None
        d_a.append(reference.side_gradient(row_side, weights, row_lse[k], col_lse_all[k], several))
        d_b.append(reference.side_gradient(col_side, weights, col_lse[k], row_lse_all[k], several))
    return [*d_a, *d_b]


@torch.library.register_fake(BACKWARD)
def _(
    d_loss, a, b, a_all, b_all, temperature, offset, weight_all, row_lse_all, col_lse_all, statistics, backend,
    numbers=None, duplicates="negatives", count=None,
):  # fmt: skip
    return [torch.empty_like(x) for x in (*a, *b)]


class _LocalShare(torch.autograd.Function):
    """The local rows' share of each loss, a weighted sum of the statistics, with the gradient of the global losses."""

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx: Any,
        temperature: Tensor,
        statistics: Tensor,
        offset: list[int],
        backend: str,
        duplicates: Treatment,
        *flat: Tensor,
    ):
        """Return (number of problems,).

        `flat`: a, b, a_all, b_all, weight_all, row_lse_all, col_lse_all in turn, then numbers and counts of duplicates
        where those are not negatives.
        """
        count = len(offset)
        sizes = [x.shape[0] for x in flat[:count]]
        row_lse, col_lse, positive, expected = statistics
        # the loss of a row, and its derivative by the logarithm of the temperature, in turn
        per_row = torch.stack((row_lse + col_lse - 2 * positive, 2 * (positive - expected))).split(sizes, dim=1)
        weights = flat[4 * count : 5 * count]
        out = []
        for part, weight, start in zip(per_row, weights, offset, strict=True):
            out.append((part * weight[start : start + part.shape[1]].to(part.dtype)).sum(1))
        values, d_log_temperature = torch.stack(out, dim=1)
        # in fp32 from the forward pass, where the backward's dS may be bf16
        ctx.save_for_backward(temperature, statistics, d_log_temperature / temperature, *flat)
        ctx.offset, ctx.backend, ctx.duplicates = offset, backend, duplicates
        return values

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor) -> tuple:
        """Return the gradients of the temperatures and of every a and b."""
        temperature, statistics, d_temperature, *flat = ctx.saved_tensors
        count = len(ctx.offset)
        lists = [flat[start : start + count] for start in range(0, len(flat), count)]
        a, b, a_all, b_all, weight_all, row_lse_all, col_lse_all = lists[:7]
        numbers, counts = lists[7:] or (None, None)
        gradients = torch.ops.scl_kernels.infonce_backward(
            d_loss.contiguous(),
            a,
            b,
            a_all,
            b_all,
            temperature,
            ctx.offset,
            weight_all,
            row_lse_all,
            col_lse_all,
            statistics,
            ctx.backend,
            numbers,
            ctx.duplicates,
            counts if ctx.duplicates == "positives" else None,
        )
        rest = [None] * (len(flat) - 2 * count)
        return d_loss * d_temperature, None, None, None, None, *gradients, *rest


@register_flop_formula(torch.ops.scl_kernels.infonce_statistics)
def statistics_flops(a_shapes, b_shapes, a_all_shapes, *args, out_shape=None, **kwargs) -> int:  # type: ignore[no-untyped-def]
    """Count two directions of n x N inner products of length D per problem, two operations each."""
    return sum(4 * n * total[0] * width for (n, width), total in zip(a_shapes, a_all_shapes, strict=True))


@register_flop_formula(torch.ops.scl_kernels.infonce_backward)
def backward_flops(d_loss_shape, a_shapes, b_shapes, a_all_shapes, *args, out_shape=None, **kwargs) -> int:  # type: ignore[no-untyped-def]
    """Count the similarities once more and their product with the global rows, in two directions."""
    return 2 * statistics_flops(a_shapes, b_shapes, a_all_shapes)


def infonce_statistics(problems: Sequence[InfoNCEProblem], *, backend: Backend = "auto") -> list[InfoNCEStatistics]:
    """Compute the local rows' log-sum-exps, diagonal and accuracy@1, without gradient.

    S = normalize(A) normalize(B)^T / temperature, L2 norms clamped at 1e-8, statistics in fp32 (fp64 for fp64). What
    duplicates are to each other is in `InfoNCEProblem.duplicates`.

    Args:
        problems: One or more losses; sizes n, N and D may differ from one to the next, the dtype may not.
        backend: `auto`, `triton` or `torch`.

    Returns:
        One record per problem.

    Raises:
        ValueError: A field has the wrong shape, dtype, device or offset; a temperature or weight is none (read always
            on CPU, elsewhere under SCL_KERNELS_DEBUG=1, which also compares local with gathered rows).
    """
    check_problems(problems)
    if not problems:
        return []
    a, b, a_all, b_all, temperature, offset = _fields(problems)
    numbers, counts, treatment = _duplicates(problems)
    with torch.no_grad():
        out = torch.ops.scl_kernels.infonce_statistics(
            a, b, a_all, b_all, temperature, offset, resolve(backend, a[0]), numbers, treatment
        )
    found = []
    for k, part in enumerate(out.split([x.shape[0] for x in a], dim=1)):
        positive = part[2]
        if counts is not None and treatment == "positives":
            positive = positive / counts[k][offset[k] : offset[k] + len(positive)].to(positive.dtype)
        found.append(InfoNCEStatistics(part[0], part[1], positive, part[3], part[4] > 0, part[5] > 0))
    return found


def infonce(
    problems: Sequence[InfoNCEProblem],
    row_lse_all: Sequence[Tensor],
    col_lse_all: Sequence[Tensor],
    statistics: Sequence[InfoNCEStatistics],
    *,
    backend: Backend = "auto",
) -> list[Tensor]:
    """Compute each problem's local share of the loss, with the exact gradient of the global one.

    The value is the sum over local i of w_i (row_lse_i + col_lse_i - 2 S_ii); summed over the ranks it is the global
    loss. The gradient is that of the global sum: row i of dS for a_i and column j of dS for b_j, with
    dS_ij = w_i P^row_ij + w_j P^col_ij - 2 w_i [i = j]. The temperature's gradient is the local rows' share, so that
    the sum (not the mean) over ranks is exact.

    Duplicates that are ignored have no part in either log-sum-exp. Where they are positives, S_ii is the mean over the
    positives of i instead (in either direction; L_out of SupCon, arXiv 2004.11362, eq. 2).

    Args:
        problems: As given to `infonce_statistics`.
        row_lse_all: (N,) per problem: every rank's `row_lse`, in the order of `a_all`.
        col_lse_all: (N,) per problem: every rank's `col_lse`.
        statistics: What `infonce_statistics` returned.
        backend: `auto`, `triton` or `torch`.

    Returns:
        One () tensor per problem; one node of the graph serves all, so go backward through their sum (or keep the
        graph to go through them one by one).

    Raises:
        ValueError: A field has the wrong shape, dtype, device or offset, or the lists differ in length.
    """
    check_problems(problems)
    named = (("row_lse_all", row_lse_all), ("col_lse_all", col_lse_all), ("statistics", statistics))
    for name, given in named:
        if len(given) != len(problems):
            raise ValueError(f"{name} has {len(given)} entries for {len(problems)} problems; expected one each")
    if not problems:
        return []
    for k, problem in enumerate(problems):
        for name, lse in (("row_lse_all", row_lse_all[k]), ("col_lse_all", col_lse_all[k])):
            check_tensor(f"{name}[{k}]", lse, shape=(problem.a_all.shape[0],), device=problem.a.device)
        for name in _IN_THE_LOSS:
            value = getattr(statistics[k], name)
            check_tensor(f"statistics[{k}].{name}", value, shape=(problem.a.shape[0],), device=problem.a.device)
    a, b, a_all, b_all, temperature, offset = _fields(problems)
    stacked = torch.stack([torch.cat([getattr(s, name) for s in statistics]) for name in _IN_THE_LOSS])
    rest = ([problem.weight_all for problem in problems], row_lse_all, col_lse_all)
    flat = [tensor for tensors in (a, b, a_all, b_all, *rest) for tensor in tensors]
    numbers, counts, treatment = _duplicates(problems)
    flat += [*(numbers or ()), *(counts or ())]
    values = _LocalShare.apply(temperature, stacked, offset, resolve(backend, a[0]), treatment, *flat)
    return list(values.unbind())


def _duplicates(
    problems: Sequence[InfoNCEProblem],
) -> tuple[list[Tensor] | None, list[Tensor] | None, Treatment]:
    """Return numbers and counts of the problems' duplicates, None where they are negatives, and what they are."""
    known = [problem.duplicates for problem in problems if problem.duplicates is not None]
    if not known:
        return None, None, "negatives"
    return [x.numbers for x in known], [x.counts for x in known], known[0].treatment


def _fields(
    problems: Sequence[InfoNCEProblem],
) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor], Tensor, list[int]]:
    """Turn problems into the operators' arguments; the temperatures become one (number of problems,) tensor."""
    device, dtype = problems[0].a.device, compute_dtype(problems[0].a.dtype)
    temperature = torch.stack(
        [
            problem.temperature.to(dtype)
            if isinstance(problem.temperature, Tensor)
            else torch.full((), problem.temperature, dtype=dtype, device=device)
            for problem in problems
        ]
    )
    return (
        [problem.a for problem in problems],
        [problem.b for problem in problems],
        [problem.a_all.detach() for problem in problems],
        [problem.b_all.detach() for problem in problems],
        temperature,
        [problem.offset for problem in problems],
    )
