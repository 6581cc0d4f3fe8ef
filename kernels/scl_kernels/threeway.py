"""Three-way comparisons: an operation, plain PyTorch in the same dtype, and the twin in fp64 on the same inputs.

A kernel passes where its largest error is at most twice that of plain PyTorch plus a few roundings. The test run uses
these under Triton's interpreter, `gpu_check.py` on the device.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from scl_kernels.backend import Backend
from scl_kernels.gather_rows import gather_rows
from scl_kernels.infonce import InfoNCEProblem, infonce, infonce_statistics
from scl_kernels.masked_gather import CLASS_ROW, MASK_ROW, masked_gather

EPS = 1e-5


class Comparison(NamedTuple):
    """Largest absolute errors of one output or gradient against fp64."""

    name: str
    error: float
    plain_error: float
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether the kernel's error is allowed; never for NaN."""
        return self.error <= self.allowed


class GatherCase(NamedTuple):
    """Sizes of a gather: tokens, rows, positions, rows of the extra table, width; and which optional rows exist."""

    tokens: int
    rows: int
    positions: int
    extras: int
    width: int
    has_class: bool = True
    has_mask: bool = True


class InfoNCECase(NamedTuple):
    """Sizes of an InfoNCE problem: local and global rows, width, offset, temperature, whether that is learnt."""

    local: int
    total: int
    width: int
    offset: int
    temperature: float = 0.07
    learnable: bool = True


GATHER_CASES = (
    GatherCase(1, 1, 1, 1, 1),
    GatherCase(13, 11, 7, 0, 33, has_mask=False),
    GatherCase(17, 0, 5, 8, 48, has_mask=False),
    GatherCase(23, 9, 5, 2, 40, has_class=False),
    GatherCase(29, 31, 3, 3, 64, has_class=False, has_mask=False),
    GatherCase(307, 40, 5, 3, 24),
)
"""No rows (all but [CLS] masked), no extra table, widths off powers of two, segments longer than a chunk."""

INFONCE_CASES: tuple[tuple[InfoNCECase, ...], ...] = (
    (InfoNCECase(1, 1, 7, 0),),
    (InfoNCECase(5, 13, 40, 3), InfoNCECase(0, 4, 16, 4, 0.03, False), InfoNCECase(67, 131, 48, 60, 0.03, False)),
    (InfoNCECase(130, 130, 144, 0),),
    (InfoNCECase(33, 70, 256, 11), InfoNCECase(3, 70, 512, 60), InfoNCECase(2, 9, 768, 7)),
)
"""One sample; several problems of other sizes, one without local rows; more than one tile in every
direction; widths without masks."""


def compare(name: str, got: Tensor, plain: Tensor, exact: Tensor, noise: float = 1e-7) -> Comparison:
    """Hold one result against plain PyTorch's error; shapes as they come; `noise` is allowed on top."""
    if got.shape != exact.shape:
        return Comparison(f"{name} (shape {tuple(got.shape)}, wanted {tuple(exact.shape)})", float("nan"), 0.0, 0.0)
    if exact.numel() == 0:
        return Comparison(name, 0.0, 0.0, 0.0)
    error = (got.double() - exact).abs().max().item()
    plain_error = (plain.double() - exact).abs().max().item()
    scale = exact.abs().max().item()
    return Comparison(name, error, plain_error, 2 * plain_error + 8 * torch.finfo(got.dtype).eps * scale + noise)


def _results(
    function: Callable[..., Tensor], inputs: Sequence[Tensor | None], dtype: torch.dtype, d_out: Tensor
) -> list[Tensor]:
    """Return function's output and its gradients with respect to all inputs, computed in dtype."""
    leaves = [None if x is None else x.detach().to(dtype).requires_grad_() for x in inputs]
    out = function(*leaves)
    return [out, *torch.autograd.grad(out, [x for x in leaves if x is not None], d_out.to(dtype))]


def plain_masked_gather(
    rows: Tensor,
    position: Tensor,
    extra: Tensor,
    class_row: Tensor | None,
    mask_row: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    source: Tensor,
    position_id: Tensor,
    extra_id: Tensor,
) -> Tensor:
    """Compute what a model without the operation would, everything in the inputs' dtype; the benchmarks' baseline."""
    x = F.embedding(source.clamp(min=0), rows if rows.shape[0] else F.pad(rows, (0, 0, 0, 1)))
    for value, row in ((CLASS_ROW, class_row), (MASK_ROW, mask_row)):
        if row is not None:
            x = torch.where((source == value).unsqueeze(1), row, x)
    x = x + F.embedding(position_id, position)
    x = x + F.embedding(extra_id + 1, F.pad(extra, (0, 0, 1, 0)))
    return F.layer_norm(x, x.shape[1:], weight, bias, EPS)


def gather_inputs(case: GatherCase, device: str, dtype: torch.dtype) -> tuple[list[Tensor | None], list[Tensor]]:
    """Draw tables and indices of a case from a fixed seed."""
    generator = torch.Generator().manual_seed(case.tokens)
    shapes = [(case.rows, case.width), (case.positions, case.width), (case.extras, case.width), *[(case.width,)] * 4]
    tables: list[Tensor | None] = [torch.randn(s, generator=generator).to(device, dtype) for s in shapes]
    tables[3] = tables[3] if case.has_class else None
    tables[4] = tables[4] if case.has_mask else None
    low = [CLASS_ROW] * case.has_class + [MASK_ROW] * case.has_mask + ([0] if case.rows else [])
    negative = torch.tensor(low)[torch.randint(0, len(low), (case.tokens,), generator=generator)]
    drawn = torch.randint(0, max(1, case.rows), (case.tokens,), generator=generator)
    source = torch.where(negative < 0, negative, drawn)
    position_id = torch.randint(0, case.positions, (case.tokens,), generator=generator)
    extra_id = torch.randint(-1, case.extras, (case.tokens,), generator=generator)
    return tables, [index.to(device) for index in (source, position_id, extra_id)]


def compare_masked_gather(case: GatherCase, dtype: torch.dtype, device: str, backend: Backend) -> list[Comparison]:
    """Compare output and every gradient of `masked_gather`."""
    tables, indices = gather_inputs(case, device, dtype)
    fixed: dict[str, Any] = dict(zip(("source", "position_id", "extra_id"), indices, strict=True))
    d_out = torch.randn(case.tokens, case.width, generator=torch.Generator().manual_seed(1)).to(device, dtype)
    got = _results(partial(masked_gather, **fixed, eps=EPS, backend=backend), tables, dtype, d_out)
    plain = _results(partial(plain_masked_gather, **fixed), tables, dtype, d_out)
    exact = _results(partial(masked_gather, **fixed, eps=EPS, backend="torch"), tables, torch.float64, d_out)
    every = ("output", "rows", "position", "extra", "class_row", "mask_row", "weight", "bias")
    names = [name for name, t in zip(every, [d_out, *tables], strict=True) if t is not None]
    return [compare(*four) for four in zip(names, got, plain, exact, strict=True)]


def compare_gather_rows(case: GatherCase, dtype: torch.dtype, device: str, backend: Backend) -> list[Comparison]:
    """Compare output and gradients of `gather_rows` with an extra table; the positions serve as rows."""
    tables, (_, index, extra_id) = gather_inputs(case, device, dtype)
    inputs = [tables[1], tables[2]]
    d_out = torch.randn(case.tokens, case.width, generator=torch.Generator().manual_seed(1)).to(device, dtype)

    def plain(rows: Tensor, extra: Tensor) -> Tensor:
        return F.embedding(index, rows) + F.embedding(extra_id + 1, F.pad(extra, (0, 0, 1, 0)))

    results = (
        _results(lambda r, e: gather_rows(r, index, e, extra_id, backend=backend), inputs, dtype, d_out),
        _results(plain, inputs, dtype, d_out),
        _results(lambda r, e: gather_rows(r, index, e, extra_id, backend="torch"), inputs, torch.float64, d_out),
    )
    return [compare(*four) for four in zip(("output", "rows", "extra"), *results, strict=True)]


def plain_infonce(a: Tensor, b: Tensor, temperature: Tensor, weight: Tensor) -> Tensor:
    """Compute the global loss with the whole similarity matrix, in the inputs' dtype; the benchmarks' baseline."""
    similarity = F.normalize(a, dim=1, eps=1e-8) @ F.normalize(b, dim=1, eps=1e-8).T / temperature
    each = similarity.logsumexp(1) + similarity.logsumexp(0) - 2 * similarity.diagonal()
    return (weight * each).sum()


def infonce_problem(case: InfoNCECase, dtype: torch.dtype, device: str) -> InfoNCEProblem:
    """Draw a problem from a fixed seed; partners are alike, so that the loss is neither 0 nor that of noise."""
    generator = torch.Generator().manual_seed(case.total)
    a_all = torch.randn(case.total, case.width, generator=generator)
    b_all = (a_all + torch.randn(case.total, case.width, generator=generator)).to(device, dtype)
    weight = (torch.rand(case.total, generator=generator) * 2 / case.total).to(device)
    temperature = torch.tensor(case.temperature, device=device, requires_grad=True)
    part = slice(case.offset, case.offset + case.local)
    a_all = a_all.to(device, dtype)
    a, b = (x[part].clone().requires_grad_() for x in (a_all, b_all))
    return InfoNCEProblem(a, b, a_all, b_all, temperature if case.learnable else case.temperature, case.offset, weight)


def _whole(problem: InfoNCEProblem, dtype: torch.dtype) -> Iterator[Tensor]:
    """Yield the local rows' gradients and the temperature's of the global loss in dtype, by plain PyTorch."""
    a, b = (x.detach().to(dtype).requires_grad_() for x in (problem.a_all, problem.b_all))
    temperature = torch.as_tensor(problem.temperature, device=a.device).detach().to(dtype).requires_grad_()
    loss = plain_infonce(a, b, temperature, problem.weight_all.to(dtype))
    d_a, d_b, d_temperature = torch.autograd.grad(loss, (a, b, temperature))
    part = slice(problem.offset, problem.offset + problem.a.shape[0])
    yield from (d_a[part], d_b[part])
    if problem.a.shape[0] == a.shape[0]:  # only then is the local share the whole
        yield loss.detach()
        yield d_temperature


def compare_infonce(
    cases: Sequence[InfoNCECase], dtype: torch.dtype, device: str, backend: Backend
) -> list[Comparison]:
    """Compare losses (where one rank holds all rows) and gradients of problems in one launch."""
    problems = [infonce_problem(case, dtype, device) for case in cases]
    doubled = [(p.a_all.double(), p.b_all.double(), float(torch.as_tensor(p.temperature).detach())) for p in problems]
    everywhere = infonce_statistics(
        [InfoNCEProblem(a, b, a, b, t, 0, p.weight_all) for p, (a, b, t) in zip(problems, doubled, strict=True)],
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
    wanted, temperature = [problem.a, problem.b], float(torch.as_tensor(problem.temperature).detach())
    if isinstance(problem.temperature, Tensor):
        wanted.append(problem.temperature)
    d_a, d_b, *d_temperature = torch.autograd.grad(value, wanted, retain_graph=True)
    results = [d_a, d_b, value.detach(), *d_temperature]
    plain, exact = _whole(problem, dtype), _whole(problem, torch.float64)
    rounding = 4 * torch.finfo(torch.float32).eps / temperature
    noise = {"a": rounding, "b": rounding, "loss": rounding, "temperature": rounding / temperature}
    return [
        compare(f"{title}: {name}", got, p, e, noise[name])
        for name, got, p, e in zip(noise, results, plain, exact, strict=False)
    ]
