"""Every attention backend that can be had, against fp64: output and gradients, apart and packed, awkward segments.

The rule is that of the kernels, without their allowance: an error of at most twice that of plain attention in the same
dtype, one rounding of the result, and that of sums in fp32 that cancel.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from scl_kernels.threeway import Comparison
from sclds.batch.attention_plan import AttentionPlan, plan_attention
from sclds.machine.attention import BACKENDS, AttentionBackend, CallSite, Machine, obstacle
from sclds.model.attention import attend, attend_kv, attend_qkv

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
HEADS = 2


class Case(NamedTuple):
    """Lengths of segments; those of keys are those of queries unless they are given."""

    queries: Sequence[int]
    keys: Sequence[int] | None = None
    head_size: int = 64

    @property
    def lengths(self) -> tuple[Sequence[int], Sequence[int]]:
        """Of queries and of keys."""
        return self.queries, self.queries if self.keys is None else self.keys


CASES = {
    "one row": Case([1]),
    "primes": Case([7, 13, 31, 2], head_size=72),
    "segments without a row": Case([0, 5, 0, 0, 3, 0]),
    "keys without a query": Case([5, 0, 2, 0], [4, 3, 9, 0]),
    "one token beside a picture": Case([1, 1, 9], [65, 5, 17], head_size=32),
    "no query at all": Case([0, 0], [3, 0]),
    "no row at all": Case([0]),
    "no segment": Case([]),
}
DEVICE_CASES = {
    "pictures of 577 rows": Case([577] * 4),
    "a video of eight frames": Case([8, 1576], [1576, 1576]),
    "texts of a batch": Case([3 + n % 30 for n in range(67)]),
}
"""Sizes that only a GPU computes in time."""


class Result(NamedTuple):
    """One comparison."""

    backend: str
    precision: str
    case: str
    form: str
    """`apart`, or which of queries, keys and values lie in one tensor."""
    found: Comparison


def absent(machine: Machine) -> dict[AttentionBackend, str]:
    """Return the backends that cannot be had at all, and why."""
    told = {name: obstacle(name, CallSite("bf16", 0.0, 64), machine) for name in BACKENDS}
    return {name: why for name, why in told.items() if why is not None}


def results(machine: Machine, device: torch.device, rehearse: bool) -> Iterator[Result]:
    """Yield what every backend makes of every case in every precision that it has."""
    for backend, has in BACKENDS.items():
        for precision in has.precisions:
            for name, case in (CASES if rehearse else CASES | DEVICE_CASES).items():
                if obstacle(backend, CallSite(precision, 0.0, case.head_size), machine) is None:
                    for form, found in compared(case, backend, DTYPES[precision], device):
                        yield Result(backend, precision, name, form, found)


def compared(
    case: Case, backend: AttentionBackend, dtype: torch.dtype, device: torch.device
) -> Iterator[tuple[str, Comparison]]:
    """Yield the comparisons of output and gradients of a case, in every form in which the model calls."""
    q_lengths, k_lengths = case.lengths
    generator = torch.Generator().manual_seed(len(q_lengths))

    def draw(rows: int, *between: int) -> Tensor:
        return torch.randn(rows, *between, HEADS, case.head_size, generator=generator).to(device, dtype)

    cu_q, cu_k = (torch.tensor([0, *lengths]).cumsum(0).int() for lengths in (q_lengths, k_lengths))
    plan = plan_attention(cu_q, cu_k, backend).to(device)
    q, kv, d_out = draw(sum(q_lengths)), draw(sum(k_lengths), 2), draw(sum(q_lengths))
    forms = {"apart": [q, *kv.unbind(1)], "kv": [q, kv]}
    if case.keys is None:
        forms["qkv"] = [torch.cat((q[:, None], kv), dim=1)]
    for form, given in forms.items():
        got, plain = (_with_gradients(form, given, each, d_out) for each in (plan, case))
        exact = _with_gradients(form, [x.double() for x in given], case, d_out.double())
        # a row that sees one key has no gradient by its score: sums that cancel, in fp32, leave their rounding
        largest = max([1.0, *(float(x.abs().max()) for x in (q, kv, d_out) if x.numel())])
        noise = torch.finfo(torch.float32).eps * case.head_size**0.5 * largest**3
        for what, *three in zip(("out", "d_q", "d_k", "d_v"), got, plain, exact, strict=True):
            yield form, _held(what, *three, noise)


def _with_gradients(form: str, given: list[Tensor], how: AttentionPlan | Case, d_out: Tensor) -> list[Tensor]:
    """Return the output and the gradients of queries, keys and values, by a plan or plainly."""
    leaves = [x.detach().clone().requires_grad_() for x in given]
    if isinstance(how, Case):
        q, k, v = leaves if form == "apart" else _unpacked(leaves)
        out = plainly(q, k, v, how)
    else:
        out = {"apart": attend, "kv": attend_kv, "qkv": attend_qkv}[form](*leaves, how)  # type: ignore[operator]
    gradients = list(torch.autograd.grad(out, leaves, d_out))
    return [out.detach(), *(gradients if form == "apart" else _unpacked(gradients))]


def _unpacked(tensors: list[Tensor]) -> list[Tensor]:
    """Return queries, keys and values, or their gradients, of what lies in one tensor or in two."""
    *q, packed = tensors
    return [*q, *packed.unbind(1)]


def plainly(q: Tensor, k: Tensor, v: Tensor, case: Case) -> Tensor:
    """Attend one segment at a time in the dtype of what is given, by the definition."""
    q_lengths, k_lengths = case.lengths
    # what no query sees gets a gradient of zeros, as from the backends
    results = [q[:0] + 0 * (q.sum() + k.sum() + v.sum())]
    pieces = zip(q.split(list(q_lengths)), k.split(list(k_lengths)), v.split(list(k_lengths)), strict=True)
    for one, keys, values in pieces:
        if len(one):
            scores = torch.einsum("qhd,khd->hqk", one, keys) * one.shape[-1] ** -0.5
            results.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), values))
    return torch.cat(results)


def _held(name: str, got: Tensor, plain: Tensor, exact: Tensor, noise: float) -> Comparison:
    """Hold a result against fp64 by the error of plain attention, shapes and dtypes included."""
    if got.shape != exact.shape or got.dtype != plain.dtype:
        return Comparison(f"{name} ({tuple(got.shape)} {got.dtype}, expected {tuple(exact.shape)})", float("nan"), 0, 0)
    if not exact.numel():
        return Comparison(name, 0.0, 0.0, 0.0)
    error, plain_error = (float((x.double() - exact).abs().max()) for x in (got, plain))
    rounding = torch.finfo(got.dtype).eps * float(exact.abs().max())
    return Comparison(name, error, plain_error, 2 * plain_error + rounding + noise)
