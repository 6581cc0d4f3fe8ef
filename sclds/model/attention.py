"""Attention over packed sequences behind one function, with three backends of equal meaning.

Shape suffixes: N query rows, M key rows, H heads, D channels of a head, S segments.
"""

import importlib.util
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from scl_kernels import gather_rows
from scl_kernels.validation import check_cumulative, check_tensor

Backend = Literal["flash_attn", "torch_varlen", "sdpa"]
_active: list[Backend] = []
MOST_RUNS = 4
"""Consecutive segments of a size are computed together while there are at most so many runs per size."""


@dataclass(frozen=True)
class Bucket:
    """Segments of similar size, padded to the largest: what dense attention can compute in one call."""

    segments: int
    q_length: int
    """Queries of a segment, padding included."""
    k_length: int
    """Keys of a segment, padding included."""
    k_mask: Tensor | None
    """(s, 1, 1, k) True for real keys; None if nothing is padded."""


@dataclass(frozen=True)
class AttentionPlan:
    """Which query rows look at which key rows: segment i of the queries attends to segment i of the keys.

    Built once a step on the host, then shared by all layers.
    """

    cu_q: Tensor
    """(S + 1,) int32 cumulative query lengths, on the device."""
    cu_k: Tensor
    """(S + 1,) int32 cumulative key lengths, on the device."""
    max_q: int
    max_k: int
    rows_q: int
    """Query rows of all segments."""
    rows_k: int
    """Key rows of all segments."""
    buckets: tuple[Bucket, ...] = ()
    """Only for `sdpa`, as all that follows."""
    q_rows: Tensor | None = None
    """Query rows of all buckets one after the other, padding points to row 0; None where that is the buffer itself."""
    k_rows: Tensor | None = None
    """The same for keys."""
    restore: Tensor | None = None
    """Where each query row lies in the concatenated results of the buckets; None where it stays in its place."""


def available_backends(precision: str = "fp32", dropout: float = 0.0) -> list[Backend]:
    """Return the backends of this machine that can run such a model, best first.

    Args:
        precision: `bf16` or `fp32`; both variable-length kernels take half types only.
        dropout: Dropout of attention weights, which torch's variable-length kernel lacks.
    """
    found: list[Backend] = []
    on_cuda = torch.cuda.is_available() and precision == "bf16"
    if on_cuda and importlib.util.find_spec("flash_attn") is not None:
        found.append("flash_attn")
    if on_cuda and dropout == 0 and importlib.util.find_spec("torch.nn.attention.varlen") is not None:
        found.append("torch_varlen")
    return [*found, "sdpa"]


def set_attention_backend(name: str, precision: str = "fp32", dropout: float = 0.0) -> Backend:
    """Choose the backend for this process and return the one in use.

    Raises:
        ValueError: If a backend is forced that this machine does not have, or that cannot run such a model.
    """
    found = available_backends(precision, dropout)
    if name != "auto" and name not in found:
        raise ValueError(
            f"engine.attention={name} is not available here with engine.precision={precision} and attention dropout "
            f"{dropout:g}; this machine has: {', '.join(found)}"
        )
    _active[:] = [found[0] if name == "auto" else name]  # type: ignore[list-item]
    return _active[0]


def attention_backend() -> Backend:
    """Return the backend in use."""
    return _active[0] if _active else set_attention_backend("auto")


def plan_attention(cu_q: Tensor, cu_k: Tensor, device: torch.device | str) -> AttentionPlan:
    """Plan attention from cumulative lengths that lie on the host.

    Args:
        cu_q: (S + 1,) int32 on the CPU.
        cu_k: (S + 1,) int32 on the CPU.
        device: Where attention will run.

    Raises:
        ValueError: Lengths are not cumulative, differ in number, or a segment has queries and no key.
    """
    check_cumulative("cu_q", cu_q)
    check_cumulative("cu_k", cu_k)
    if cu_q.shape != cu_k.shape:
        raise ValueError(f"cu_q has {len(cu_q) - 1} segments and cu_k {len(cu_k) - 1}; they must be equal in number")
    lengths_q, lengths_k = cu_q.diff(), cu_k.diff()
    starved = ((lengths_q > 0) & (lengths_k == 0)).nonzero()
    if len(starved):
        raise ValueError(f"segment {int(starved[0])} has queries and no key to look at")
    max_q = int(lengths_q.max()) if len(lengths_q) else 0
    max_k = int(lengths_k.max()) if len(lengths_k) else 0
    plan = AttentionPlan(cu_q.to(device), cu_k.to(device), max_q, max_k, int(cu_q[-1]), int(cu_k[-1]))
    return _with_buckets(plan, cu_q.long(), cu_k.long(), device) if attention_backend() == "sdpa" else plan


def attend(q_NHD: Tensor, k_MHD: Tensor, v_MHD: Tensor, plan: AttentionPlan, dropout: float = 0.0) -> Tensor:
    """Scaled dot-product attention within segments.

    Args:
        q_NHD: Queries, fp32, bf16 or fp16.
        k_MHD: Keys.
        v_MHD: Values.
        plan: Segments of queries and keys.
        dropout: Probability of dropping an attention weight; 0 outside training.

    Returns:
        (N, H, D) in the dtype of the queries.

    Raises:
        ValueError: Rows are not those of the plan, or queries, keys and values do not fit together.
    """
    check_tensor("q", q_NHD, shape=(plan.rows_q, None, None))
    for name, x in (("k", k_MHD), ("v", v_MHD)):
        check_tensor(name, x, shape=(plan.rows_k, *q_NHD.shape[1:]), dtypes=(q_NHD.dtype,), device=q_NHD.device)
    if q_NHD.shape[0] == 0:
        # Keeps keys and values in the graph: under ZeRO-3 every rank must run the same backward hooks.
        return q_NHD + 0 * (k_MHD.sum() + v_MHD.sum())
    backend = attention_backend()
    if backend == "sdpa":
        return _attend_sdpa(q_NHD, k_MHD, v_MHD, plan, dropout)
    if backend == "torch_varlen":
        from torch.nn.attention.varlen import varlen_attn

        return cast(Tensor, varlen_attn(q_NHD, k_MHD, v_MHD, plan.cu_q, plan.cu_k, plan.max_q, plan.max_k))
    from flash_attn import flash_attn_varlen_func

    return flash_attn_varlen_func(q_NHD, k_MHD, v_MHD, plan.cu_q, plan.cu_k, plan.max_q, plan.max_k, dropout_p=dropout)


def _attend_sdpa(q_NHD: Tensor, k_MHD: Tensor, v_MHD: Tensor, plan: AttentionPlan, dropout: float) -> Tensor:
    """Dense attention bucket by bucket.

    One gather lays out all buckets, and none is made where they already lie one after the other: a gather of each
    bucket would have a whole buffer of zeros to fill and to add in backward.
    """
    q, k, v = _rows(q_NHD, plan.q_rows), _rows(k_MHD, plan.k_rows), _rows(v_MHD, plan.k_rows)
    q_sizes = [b.segments * b.q_length for b in plan.buckets]
    k_sizes = [b.segments * b.k_length for b in plan.buckets]
    results = []
    for bucket, *qkv in zip(plan.buckets, q.split(q_sizes), k.split(k_sizes), v.split(k_sizes), strict=True):
        dense_q, dense_k, dense_v = (x.unflatten(0, (bucket.segments, -1)).transpose(1, 2) for x in qkv)
        out = _dense_attention(dense_q, dense_k, dense_v, bucket.k_mask, dropout)
        results.append(out.transpose(1, 2).flatten(0, 1))
    return _rows(results[0] if len(results) == 1 else torch.cat(results), plan.restore)


def _rows(x_NHD: Tensor, rows: Tensor | None) -> Tensor:
    return x_NHD if rows is None else gather_rows(x_NHD.flatten(1), rows).unflatten(1, x_NHD.shape[1:])


def _dense_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Attend within (segments, heads, rows, channels).

    The CPU's fused bf16 attention takes seven times as long backward as these matrix products (67 segments, 2 heads, 65
    rows, 64 channels, one core with AVX512-BF16: 26.7 ms against 3.6 ms, forward and backward), so it is not used.
    """
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = scores.softmax(-1, dtype=torch.float32).to(q.dtype)
    return F.dropout(weights, dropout) @ v


def _with_buckets(plan: AttentionPlan, cu_q: Tensor, cu_k: Tensor, device: torch.device | str) -> AttentionPlan:
    """Add the buckets of dense attention."""
    buckets, q_rows, k_rows, reals = [], [cu_q.new_zeros(0)], [cu_k.new_zeros(0)], [cu_q.new_zeros(0, dtype=torch.bool)]
    for segments in _groups(cu_q, cu_k):
        chosen = torch.tensor(segments)
        (q_index, q_real), (k_index, k_real) = _padded_rows(cu_q, chosen), _padded_rows(cu_k, chosen)
        mask = None if bool(k_real.all()) else k_real[:, None, None, :].to(device)
        buckets.append(Bucket(len(segments), q_index.shape[1], k_index.shape[1], mask))
        q_rows.append(q_index.flatten())
        k_rows.append(k_index.flatten())
        reals.append(q_real.flatten())
    q_all, real = torch.cat(q_rows), torch.cat(reals)
    restore = torch.empty(int(cu_q[-1]), dtype=torch.long)
    restore[q_all[real]] = real.nonzero().squeeze(1)
    return replace(
        plan,
        buckets=tuple(buckets),
        q_rows=_unless_in_place(q_all, int(cu_q[-1]), device),
        k_rows=_unless_in_place(torch.cat(k_rows), int(cu_k[-1]), device),
        restore=_unless_in_place(restore, len(q_all), device),
    )


def _groups(cu_q: Tensor, cu_k: Tensor) -> list[list[int]]:
    """Group segments with queries whose lengths round up to the same multiples of 8, so that little is padded.

    Consecutive segments of a size need no copy, so runs of them are the groups unless sizes alternate much.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    runs: list[list[int]] = []
    size = None
    lengths = torch.stack((cu_q.diff(), cu_k.diff()), dim=1).tolist()
    for segment, (q, k) in enumerate(lengths):
        if not q:
            continue
        last, size = size, (-(-q // 8), -(-k // 8))
        if size != last:
            runs.append([])
        runs[-1].append(segment)
        groups.setdefault(size, []).append(segment)
    return runs if len(runs) <= MOST_RUNS * len(groups) else list(groups.values())


def _unless_in_place(rows: Tensor, count: int, device: torch.device | str) -> Tensor | None:
    """Return the rows, or None if they are all of `count` rows in their order."""
    in_place = len(rows) == count and torch.equal(rows, torch.arange(count))
    return None if in_place else rows.to(device)


def _padded_rows(cu: Tensor, segments: Tensor) -> tuple[Tensor, Tensor]:
    """Return (s, longest) row numbers of the segments, 0 at padding, and which of them are real."""
    lengths = cu.diff()[segments]
    columns = _columns(int(lengths.max()))
    real = columns < lengths[:, None]
    return torch.where(real, cu[segments][:, None] + columns, 0), real


@lru_cache(maxsize=1024)
def _columns(width: int) -> Tensor:
    return torch.arange(width)[None, :]
