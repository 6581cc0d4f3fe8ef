"""What the tools know of `gather_rows`: cases, compilations, what it moves, what a call costs."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from scl_kernels import segment_sum
from scl_kernels.backend import Backend
from scl_kernels.gather_rows.kernel import forward_kernel
from scl_kernels.gather_rows.operation import ROWS, gather_rows
from scl_kernels.registry import WIDTHS, Operation, Variant, register
from scl_kernels.roofline import Cost, Work, launch_cost
from scl_kernels.sizes import power_of_two
from scl_kernels.threeway import Comparison, compare, results


class Case(NamedTuple):
    """Sizes: rows gathered, rows of the buffer, width."""

    tokens: int
    rows: int
    width: int


CASES = (Case(1, 1, 1), Case(0, 3, 8), Case(13, 7, 33), Case(23, 5, 40), Case(29, 64, 64), Case(307, 5, 24))
"""One row, nothing to gather, widths off powers of two, segments longer than a chunk."""


def compare_case(case: Case, dtype: torch.dtype, device: str, backend: Backend) -> list[Comparison]:
    """Compare output and gradient."""
    generator = torch.Generator().manual_seed(case.tokens)
    rows = torch.randn(case.rows, case.width, generator=generator).to(device, dtype)
    d_out = torch.randn(case.tokens, case.width, generator=generator).to(device, dtype)
    index = torch.randint(0, case.rows, (case.tokens,), generator=generator).to(device)
    three = (
        results(partial(gather_rows, index=index, backend=backend), [rows], dtype, d_out),
        results(partial(F.embedding, index), [rows], dtype, d_out),
        results(partial(gather_rows, index=index, backend="torch"), [rows], torch.float64, d_out),
    )
    return [compare(*four) for four in zip(("output", "rows"), *three, strict=True)]


def variants(name: str, architecture: int) -> Iterator[Variant]:
    """Yield the forward kernel, and those of the segment sum, which `masked_gather` launches as well."""
    pointer = f"*{name}"
    for size, width in WIDTHS.items():
        types = {"rows": pointer, "index": "*i64", "out": pointer, "read": "*i64", "count": "i32", "row_count": "i32"}
        constants = {"width": width, "ROWS": ROWS, "BLOCK_D": power_of_two(width)}
        yield Variant(f"gather_rows_forward/{name}/{size}", forward_kernel, types, constants)
        types = {"source": pointer}
        types |= dict.fromkeys(("order", "start", "chunk_start", "segment_of_chunk", "partial_start"), "*i64")
        types |= {"out": pointer, "partial": "*fp32", "segments": "i32"}
        common = {"width": width, "BLOCK_D": power_of_two(width)}
        constants = {**common, "ROWS": segment_sum.CHUNK_TILE, "CHUNK_ROWS": segment_sum.CHUNK}
        kernel, warps = segment_sum.chunk_kernel, segment_sum.CHUNK_WARPS
        yield Variant(f"segment_sum_chunk/{name}/{size}", kernel, types, constants, num_warps=warps)
        types = {"partial": "*fp32", "partial_start": "*i64", "out": pointer, "segments": "i32"}
        constants = {**common, "GROUP": segment_sum.COMBINE_GROUP, "ROWS": segment_sum.COMBINE_TILE}
        yield Variant(f"segment_sum_combine/{name}/{size}", segment_sum.combine_kernel, types, constants)


def work(x: int, config: Mapping[str, Any], mode: str) -> Work:
    """Return the bytes of x bf16 rows: read and written; then their gradients read, those of the buffer written."""
    forward = 2 * config["size"] * 2
    backward = (config["size"] + config["rows"] * config["width"]) * 2
    return Work("bytes", {"forward": forward, "backward": backward, "full": forward + backward}[mode])


def cost() -> Cost:
    """Return what the host pays: the kernel checks on its way, the reference in a pass in either direction."""
    return launch_cost(4, 14, saved_bytes=8.0)


register(
    Operation(
        "gather_rows",
        functions=(gather_rows,),
        cases=CASES,
        compare=compare_case,
        variants=variants,
        device_cases=(Case(50_000, 41_472, 768), Case(10_000, 514, 1024)),
        work=work,
        cost=cost,
    )
)
