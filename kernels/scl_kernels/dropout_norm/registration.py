"""What the tools know of `dropout_add_norm`: cases, compilations, what it moves, what a call costs."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from scl_kernels.backend import Backend
from scl_kernels.dropout_norm.draws import kept
from scl_kernels.dropout_norm.kernel import backward_kernel, forward_kernel
from scl_kernels.dropout_norm.operation import BACKWARD_ROWS, FORWARD_ROWS, dropout_add_norm
from scl_kernels.registry import WIDTHS, Operation, Variant, register
from scl_kernels.roofline import DEVICES, Account, Cost, Term, Work, launch_cost, total
from scl_kernels.sizes import power_of_two
from scl_kernels.threeway import Comparison, compare, results

EPS = 1e-5


class Case(NamedTuple):
    """Sizes: rows and width; the share that is dropped; whether the sum is read beside the normalized rows."""

    rows: int
    width: int
    dropout: float = 0.1
    reads_total: bool = False


CASES = (
    Case(1, 1),
    Case(13, 33, 0.5, True),
    Case(0, 8),
    Case(29, 64, 0.0),
    Case(17, 48, 0.0, True),
    Case(37, 40, 0.9),
)
"""One row, no rows, nothing dropped, widths off powers of two, with and without a gradient of the sum."""


def draw(case: Case, device: str, dtype: torch.dtype) -> tuple[list[Tensor], Tensor | None]:
    """Draw branch, residual, weight and bias of a case from a fixed seed, and its keys."""
    generator = torch.Generator().manual_seed(case.rows)
    shapes = [(case.rows, case.width)] * 2 + [(case.width,)] * 2
    tensors = [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]
    keys = torch.randint(-(2**63), 2**63 - 1, (case.rows,), generator=generator).to(device)
    return tensors, keys if case.dropout else None


def compare_case(case: Case, dtype: torch.dtype, device: str, backend: Backend) -> list[Comparison]:
    """Compare normalized rows (or with them the sum, added) and every gradient."""
    tensors, keys = draw(case, device, dtype)
    d_out = torch.randn(case.rows, case.width, generator=torch.Generator().manual_seed(1)).to(device, dtype)

    def by(choice: Backend) -> Any:
        def run(branch: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            inputs = (branch, residual, weight, bias, keys)
            out, summed = dropout_add_norm(*inputs, 3, case.dropout, EPS, backend=choice)
            return out + summed if case.reads_total else out

        return run

    def plain(branch: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if keys is not None:
            mask = kept(keys, 3, case.width, case.dropout)
            branch = torch.where(mask, branch / (1 - case.dropout), 0.0)
        summed = branch + residual
        out = F.layer_norm(summed, (case.width,), weight, bias, EPS)
        return out + summed if case.reads_total else out

    got, same = (results(function, tensors, dtype, d_out) for function in (by(backend), plain))
    exact = results(by("torch"), tensors, torch.float64, d_out)
    names = ("output", "branch", "residual", "weight", "bias")
    return [compare(*four) for four in zip(names, got, same, exact, strict=True)]


def variants(name: str, architecture: int) -> Iterator[Variant]:
    """Yield both directions, with dropout (post-norm layers) and without (the vision tower, which reads the sum)."""
    pointer = f"*{name}"
    for size, width in WIDTHS.items():
        for kind, drops in (("dropout", True), ("plain", False)):
            numbers = {"count": "i32", "site": "i32", "threshold": "i32", "scale": "fp32"}
            keys = {"keys": "*i64" if drops else pointer}
            types = dict.fromkeys(("branch", "residual", "weight", "bias"), pointer) | keys
            types |= dict.fromkeys(("total", "out"), pointer) | dict.fromkeys(("mean", "inverse_std"), "*fp32")
            types |= {**numbers, "eps": "fp32"}
            shape = {"width": width, "DROPS": drops, "BLOCK_D": power_of_two(width)}
            key = f"{kind}/{name}/{size}"
            yield Variant(f"dropout_norm_forward/{key}", forward_kernel, types, {**shape, "ROWS": FORWARD_ROWS})
            types = dict.fromkeys(("d_out", "d_total", "total", "weight"), pointer) | keys
            types |= dict.fromkeys(("mean", "inverse_std"), "*fp32")
            types |= dict.fromkeys(("d_branch", "d_residual"), pointer)
            types |= dict.fromkeys(("d_weight", "d_bias"), "*fp32") | numbers
            constants = {**shape, "HAS_D_TOTAL": not drops, "ROWS": BACKWARD_ROWS}
            yield Variant(f"dropout_norm_backward/{key}", backward_kernel, types, constants)


def terms(rows: int, width: int, itemsize: int, dropout: bool) -> tuple[list[Term], list[Term]]:
    """Return bytes of the operation and of the eager chain, forward and backward, as lists of terms.

    Args:
        rows: N.
        width: D.
        itemsize: Bytes of an element.
        dropout: Whether anything is dropped; without it the sum is read beside the normalized rows.
    """
    one, mask = rows * width * itemsize, rows * width
    ours = [
        Term("forward: read branch and residual, write sum and y", 4 * one),
        Term("forward: keys and statistics", rows * (8 + 8)),
        Term("backward: read dy and sum, write the residual's gradient", 3 * one),
        Term("backward: keys and statistics", rows * (8 + 8)),
        Term(f"backward: {'write the branch' if dropout else 'read the sum'}'s gradient", one),
    ]
    eager = [
        Term("forward: addition, two reads and a write", 3 * one),
        Term("forward: LayerNorm, read and write", 2 * one),
        Term("backward: LayerNorm dx (dy, x, dx), dweight and dbias (dy, x)", 5 * one),
    ]
    if dropout:
        eager += [
            Term("forward: dropout, read, write, write the mask", 2 * one + mask),
            Term("backward: dropout, read, write, read the mask", 2 * one + mask),
        ]
    else:
        eager.append(Term("backward: addition of the sum's gradient, two reads and a write", 3 * one))
    return ours, eager


def accounts() -> Iterator[Account]:
    """Yield the fusion rows of a micro-batch, and the tokens of the vision tower."""
    for kind, dropout, target in (("dropout", True, 1.6), ("no dropout", False, 1.5)):
        rows, width = 48_000, WIDTHS["base"]
        ours, eager = terms(rows, width, 2, dropout)
        times = ", ".join(f"{d.name} {total(ours) / d.bytes_per_second * 1e6:.0f} us" for d in DEVICES.values())
        title = f"dropout_norm, {kind}: N = {rows:,}, D = {width}, bf16, forward and backward"
        yield Account(title, "moves", ours, eager, target=target, remarks=[f"at full bandwidth: {times}"])


def work(x: int, config: Mapping[str, Any], mode: str) -> Work:
    """Return the bytes of x rows in bf16."""
    ours, _ = terms(x, config["width"], 2, config["dropout"] > 0)
    moved = total([term for term in ours if mode in ("full", term.what.split(":")[0])])
    return Work("bytes", moved, target=0.8 if mode == "full" else None)


def cost() -> Cost:
    """Return what the host pays: two launches and two sums against the passes of the chain and of its draws."""
    count = 10_000
    ours, eager = (total(account) for account in terms(count, 768, 2, True))
    return launch_cost(4, 22, saved_bytes=(eager - ours) / (count * 768))


register(
    Operation(
        "dropout_norm",
        functions=(dropout_add_norm,),
        cases=CASES,
        compare=compare_case,
        variants=variants,
        device_cases=(Case(50_000, 768), Case(10_000, 1024, 0.0, True)),
        accounts=accounts,
        work=work,
        cost=cost,
    )
)
