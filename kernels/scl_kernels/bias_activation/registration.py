"""What the tools know of `bias_activation`: cases, compilations, what it moves, what a call costs."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch

from scl_kernels.backend import Backend
from scl_kernels.bias_activation.kernel import backward_kernel, forward_kernel
from scl_kernels.bias_activation.operation import ROWS, bias_activation, block_of, linear_activation
from scl_kernels.bias_activation.reference import ACTIVATIONS, bias_activation_reference
from scl_kernels.registry import WIDTHS, Operation, Variant, register
from scl_kernels.roofline import DEVICES, Account, Cost, Term, Work, launch_cost, total
from scl_kernels.threeway import Comparison, compare, results

MLP_RATIO = 4
"""Inner width of a feed-forward layer as a multiple of its width."""


class Case(NamedTuple):
    """Sizes: rows and width; and the activation."""

    rows: int
    width: int
    activation: str


CASES = (
    Case(1, 1, "quick_gelu"),
    Case(0, 8, "gelu"),
    Case(13, 33, "gelu"),
    Case(23, 40, "gelu_tanh"),
    Case(29, 64, "quick_gelu"),
    Case(7, 1100, "gelu"),
)
"""One row, no rows, every activation, widths off powers of two, more than one block of columns."""


def compare_case(case: Case, dtype: torch.dtype, device: str, backend: Backend) -> list[Comparison]:
    """Compare output and gradients."""
    generator = torch.Generator().manual_seed(case.rows + case.width)
    x = 3 * torch.randn(case.rows, case.width, generator=generator).to(device, dtype)
    bias, d_out = (torch.randn(s, generator=generator).to(device, dtype) for s in ((case.width,), tuple(x.shape)))

    def by(choice: Backend) -> Any:
        return partial(bias_activation, activation=case.activation, backend=choice)

    plain = partial(bias_activation_reference, activation=case.activation)
    got, same = (results(function, [x, bias], dtype, d_out) for function in (by(backend), plain))
    exact = results(by("torch"), [x, bias], torch.float64, d_out)
    return [compare(*four) for four in zip(("output", "x", "bias"), got, same, exact, strict=True)]


def variants(name: str, architecture: int) -> Iterator[Variant]:
    """Yield both directions of every activation; the width is an argument."""
    pointer = f"*{name}"
    for activation in ACTIVATIONS:
        numbers = {"count": "i32", "width": "i32"}
        constants = {"ACTIVATION": activation, "ROWS": ROWS, "BLOCK_D": block_of(MLP_RATIO * WIDTHS["base"])}
        key = f"{activation}/{name}"
        types = dict.fromkeys(("x", "bias", "out"), pointer) | numbers
        yield Variant(f"bias_activation_forward/{key}", forward_kernel, types, constants)
        types = dict.fromkeys(("d_out", "x", "bias", "d_x"), pointer) | {"d_bias": "*fp32", **numbers}
        yield Variant(f"bias_activation_backward/{key}", backward_kernel, types, constants)


def terms(rows: int, width: int, itemsize: int, activation: str) -> tuple[list[Term], list[Term]]:
    """Return bytes of the operation and of the eager chain, forward and backward, as lists of terms."""
    one = rows * width * itemsize
    ours = [
        Term("forward: read the product, write the activation", 2 * one),
        Term("backward: read d out and the product, write d x", 3 * one),
    ]
    if activation == "quick_gelu":
        eager = [
            Term("forward: 1.702 x, its sigmoid, their product, reads and writes", 7 * one),
            Term("backward: of the product (d out, x, sigmoid; two writes)", 6 * one),
            Term("backward: of the sigmoid, of the scale, their sum", 8 * one),
        ]
    else:
        eager = [
            Term("forward: read and write", 2 * one),
            Term("backward: read d out and x, write d x", 3 * one),
        ]
    return ours, [*eager, Term("backward: the bias's gradient reads d x", one)]


def accounts() -> Iterator[Account]:
    """Yield the feed-forward layers of the vision tower (CLIP) and of text and fusion."""
    for activation, target in (("quick_gelu", 4.0), ("gelu", 1.2)):
        rows, width = 48_000, MLP_RATIO * WIDTHS["base"]
        ours, eager = terms(rows, width, 2, activation)
        times = ", ".join(f"{d.name} {total(ours) / d.bytes_per_second * 1e6:.0f} us" for d in DEVICES.values())
        title = f"bias_activation, {activation}: N = {rows:,}, D = {width:,}, bf16, forward and backward"
        yield Account(title, "moves", ours, eager, target=target, remarks=[f"at full bandwidth: {times}"])


def work(x: int, config: Mapping[str, Any], mode: str) -> Work:
    """Return the bytes of x rows in bf16."""
    ours, _ = terms(x, config["width"], 2, config["activation"])
    moved = total([term for term in ours if mode in ("full", term.what.split(":")[0])])
    return Work("bytes", moved, target=0.8 if mode == "full" else None)


def cost() -> Cost:
    """Return what the host pays: two launches and a sum of partial gradients against QuickGELU's chain.

    PyTorch's own GELU is one pass each way: there the kernel saves the bias's sum alone.
    """
    count = 10_000
    ours, eager = (total(account) for account in terms(count, 3072, 2, "quick_gelu"))
    return launch_cost(3, 9, saved_bytes=(eager - ours) / (count * 3072))


register(
    Operation(
        "bias_activation",
        functions=(bias_activation, linear_activation),
        cases=CASES,
        compare=compare_case,
        variants=variants,
        device_cases=(Case(50_000, 3072, "quick_gelu"), Case(10_000, 4096, "gelu")),
        accounts=accounts,
        work=work,
        cost=cost,
    )
)
