"""What the tools know of `masked_gather`: cases, compilations, what it moves, what a call costs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scl_kernels import segment_sum
from scl_kernels.backend import Backend
from scl_kernels.masked_gather.inputs import CLASS_ROW, MASK_ROW, Inputs
from scl_kernels.masked_gather.kernel import backward_kernel, forward_kernel
from scl_kernels.masked_gather.operation import BACKWARD_ROWS, FORWARD_ROWS, masked_gather
from scl_kernels.masked_gather.reference import plain_masked_gather
from scl_kernels.registry import WIDTHS, Operation, Variant, register
from scl_kernels.roofline import DEVICES, Account, Cost, Term, Work, launch_cost, total
from scl_kernels.sizes import power_of_two
from scl_kernels.threeway import Comparison, compare, results

EPS = 1e-5
SORT_BYTES_PER_INDEX = 4 * 2 * (4 + 8)
"""A radix sort of int32 keys with int64 values: four passes that read and write both."""


class Case(NamedTuple):
    """Sizes: tokens, rows, positions, rows of the extra table, width; and which optional rows exist."""

    tokens: int
    rows: int
    positions: int
    extras: int
    width: int
    has_class: bool = True
    has_mask: bool = True


CASES = (
    Case(1, 1, 1, 1, 1),
    Case(13, 11, 7, 0, 33, has_mask=False),
    Case(17, 0, 5, 8, 48, has_mask=False),
    Case(23, 9, 5, 2, 40, has_class=False),
    Case(29, 31, 3, 3, 64, has_class=False, has_mask=False),
    Case(307, 40, 5, 3, 24),
)
"""No rows (all but [CLS] masked), no extra table, widths off powers of two, segments longer than a chunk."""


def draw(case: Case, device: str, dtype: torch.dtype) -> Inputs:
    """Draw the inputs of a case from a fixed seed."""
    generator = torch.Generator().manual_seed(case.tokens)
    shapes = [(case.rows, case.width), (case.positions, case.width), (case.extras, case.width), *[(case.width,)] * 4]
    tables: list[Any] = [torch.randn(s, generator=generator).to(device, dtype) for s in shapes]
    tables[3] = tables[3] if case.has_class else None
    tables[4] = tables[4] if case.has_mask else None
    low = [CLASS_ROW] * case.has_class + [MASK_ROW] * case.has_mask + ([0] if case.rows else [])
    negative = torch.tensor(low)[torch.randint(0, len(low), (case.tokens,), generator=generator)]
    drawn = torch.randint(0, max(1, case.rows), (case.tokens,), generator=generator)
    source = torch.where(negative < 0, negative, drawn)
    position_id = torch.randint(0, case.positions, (case.tokens,), generator=generator)
    extra_id = torch.randint(-1, case.extras, (case.tokens,), generator=generator)
    return Inputs(*[*tables, *(index.to(device) for index in (source, position_id, extra_id)), EPS])


def compare_case(case: Case, dtype: torch.dtype, device: str, backend: Backend) -> list[Comparison]:
    """Compare output and every gradient."""
    inputs = draw(case, device, dtype)
    tables: Sequence[Any] = inputs[:7]
    fixed: Sequence[Any] = inputs[7:]
    d_out = torch.randn(case.tokens, case.width, generator=torch.Generator().manual_seed(1)).to(device, dtype)

    def ours(*tables: Any) -> Tensor:
        return masked_gather(*tables, *fixed, backend=backend)

    def plain(*tables: Any) -> Tensor:
        return plain_masked_gather(Inputs(*tables, *fixed))

    def reference(*tables: Any) -> Tensor:
        return masked_gather(*tables, *fixed, backend="torch")

    got, same = (results(function, tables, dtype, d_out) for function in (ours, plain))
    exact = results(reference, tables, torch.float64, d_out)
    names = ["output", *(name for name, t in zip(Inputs._fields, tables, strict=False) if t is not None)]
    return [compare(*four) for four in zip(names, got, same, exact, strict=True)]


def variants(name: str, architecture: int) -> Iterator[Variant]:
    """Yield both directions, with and without [CLS] and mask token, and the kernel that numbers the joint table."""
    pointer = f"*{name}"
    index = dict.fromkeys(("source", "position_id", "extra_id"), "*i64")
    counts = dict.fromkeys(("count", "row_count", "position_count", "extra_count"), "i32")
    tables = dict.fromkeys(("rows", "position", "extra", "class_row", "mask_row", "weight"), pointer)
    floats = dict.fromkeys(("mean", "inverse_std"), "*fp32")
    for size, width in WIDTHS.items():
        for kind, full in (("vision", True), ("text", False)):
            shape = {"width": width, "HAS_CLASS": full, "HAS_MASK": full, "BLOCK_D": power_of_two(width)}
            types = {**tables, "bias": pointer, **index, "out": pointer, **floats, **counts, "eps": "fp32"}
            key, constants = f"{kind}/{name}/{size}", {**shape, "ROWS": FORWARD_ROWS}
            yield Variant(f"masked_gather_forward/{key}", forward_kernel, types, constants)
            types = {"d_out": pointer, **tables, **index, **floats, "d_x": pointer}
            types |= {"d_weight": "*fp32", "d_bias": "*fp32", **counts}
            constants = {**shape, "ROWS": BACKWARD_ROWS}
            yield Variant(f"masked_gather_backward/{key}", backward_kernel, types, constants)
    if name == "fp32":
        types = dict.fromkeys(("first", "second", "third"), "*i64") | {"out": "*i32"}
        types |= dict.fromkeys(("count", "first_rows", "second_rows", "third_rows"), "i32")
        kernel, constants = segment_sum.joint_destination_kernel, {"BLOCK": segment_sum.INDEX_BLOCK}
        yield Variant("joint_destination", kernel, types, constants)


def terms(count: int, rows: int, width: int, itemsize: int) -> tuple[list[Term], list[Term]]:
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


def accounts() -> Iterator[Account]:
    """Yield a micro-batch of 128 images at 288 px: all patches, and the masked views again."""
    for size, width in WIDTHS.items():
        count, rows = 48_000, 41_472
        ours, eager = terms(count, rows, width, 2)
        times = ", ".join(f"{d.name} {total(ours) / d.bytes_per_second * 1e6:.0f} us" for d in DEVICES.values())
        title = f"masked_gather, {size}: N = {count:,}, R = {rows:,}, D = {width}, bf16, forward and backward"
        yield Account(title, "moves", ours, eager, target=2.5, remarks=[f"at full bandwidth: {times}"])


def work(x: int, config: Mapping[str, Any], mode: str) -> Work:
    """Return the bytes of x tokens in bf16."""
    ours, _ = terms(x, config["rows"], config["width"], 2)
    moved = total([term for term in ours if mode in ("full", term.what.split(":")[0])])
    return Work("bytes", moved, target=0.8 if mode == "full" else None)


def cost() -> Cost:
    """Return what the host pays: the kernel checks on its way, the reference in operations of its own."""
    count = 10_000
    ours, eager = (total(account) for account in terms(count, count, 768, 2))
    return launch_cost(10, 60, saved_bytes=(eager - ours) / (count * 768))


register(
    Operation(
        "masked_gather",
        functions=(masked_gather,),
        cases=CASES,
        compare=compare_case,
        variants=variants,
        device_cases=(Case(50_000, 41_472, 325, 8, 768), Case(10_000, 50_265, 514, 3, 1024)),
        accounts=accounts,
        work=work,
        cost=cost,
    )
)
