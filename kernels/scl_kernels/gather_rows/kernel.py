"""The Triton kernel of `gather_rows`."""
# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["count", "row_count"])
def forward_kernel(
    rows,  # (R, D)
    index,  # (N,) int64
    out,  # (N, D)
    read,  # (N,) int64: the row that was read, R for an index out of range
    count,
    row_count,
    width: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Copy ROWS rows; NaN for an index out of range; grid (row blocks,)."""
    at = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = at < count
    d = tl.arange(0, BLOCK_D)
    columns = (d < width)[None, :]
    source = tl.load(index + at, mask=inside, other=0)
    valid = (source >= 0) & (source < row_count)
    tl.store(read + at, tl.where(valid, source, row_count), mask=inside)
    x = tl.load(rows + source[:, None] * width + d[None, :], mask=(inside & valid)[:, None] & columns, other=0.0)
    x = tl.where(valid[:, None], x.to(tl.float32), float("nan"))  # the interpreter has no constants in bf16
    tl.store(out + at[:, None] * width + d[None, :], x.to(out.dtype.element_ty), mask=inside[:, None] & columns)
