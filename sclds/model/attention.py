"""Attention over packed sequences behind one function, with three backends of equal meaning.

Shape suffixes: N query rows, M key rows, H heads, D channels of a head, S segments.
"""

import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from scl_kernels.validation import check_cumulative, check_tensor

Backend = Literal["flash_attn", "torch_varlen", "sdpa"]
_active: list[Backend] = []


@dataclass(frozen=True)
class Bucket:
    """Segments of similar size, padded to the largest: what dense attention can compute in one call."""

    q_index: Tensor
    """(s, q) query rows, padding points to row 0."""
    k_index: Tensor
    """(s, k) key rows, padding points to row 0."""
    k_mask: Tensor | None
    """(s, 1, 1, k) True for real keys; None if nothing is padded."""
    q_valid: Tensor | None
    """(real queries,) places among the s·q that are real; None if all are."""


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
    """Only for `sdpa`."""
    restore: Tensor | None = None
    """Only for `sdpa`: where each query row lies in the concatenated results of the buckets."""


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
    buckets, restore = _buckets(cu_q.long(), cu_k.long(), device) if attention_backend() == "sdpa" else ((), None)
    return AttentionPlan(cu_q.to(device), cu_k.to(device), max_q, max_k, int(cu_q[-1]), int(cu_k[-1]), buckets, restore)


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
    """Dense attention bucket by bucket."""
    results = []
    for bucket in plan.buckets:
        q, k, v = (
            x[i].transpose(1, 2) for x, i in ((q_NHD, bucket.q_index), (k_MHD, bucket.k_index), (v_MHD, bucket.k_index))
        )
        out = _dense_attention(q, k, v, bucket.k_mask, dropout)
        out = out.transpose(1, 2).flatten(0, 1)
        results.append(out if bucket.q_valid is None else out[bucket.q_valid])
    assert plan.restore is not None
    return torch.cat(results)[plan.restore]


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


def _buckets(cu_q: Tensor, cu_k: Tensor, device: torch.device | str) -> tuple[tuple[Bucket, ...], Tensor]:
    """Group segments whose lengths round up to the same multiples of 8, so that little is padded."""
    groups: dict[tuple[int, int], list[int]] = {}
    lengths = torch.stack((cu_q.diff(), cu_k.diff()), dim=1).tolist()
    for segment, (q, k) in enumerate(lengths):
        if q:
            groups.setdefault((-(-q // 8), -(-k // 8)), []).append(segment)
    buckets, order = [], []
    for segments in groups.values():
        chosen = torch.tensor(segments)
        q_index, q_real = _padded_rows(cu_q, chosen)
        k_index, k_real = _padded_rows(cu_k, chosen)
        order.append(q_index[q_real])
        buckets.append(
            Bucket(
                q_index.to(device),
                k_index.to(device),
                None if bool(k_real.all()) else k_real[:, None, None, :].to(device),
                None if bool(q_real.all()) else q_real.flatten().nonzero().squeeze(1).to(device),
            )
        )
    restore = torch.empty(int(cu_q[-1]), dtype=torch.long)
    if order:
        restore[torch.cat(order)] = torch.arange(len(restore))
    return tuple(buckets), restore.to(device)


def _padded_rows(cu: Tensor, segments: Tensor) -> tuple[Tensor, Tensor]:
    """Return (s, longest) row numbers of the segments, 0 at padding, and which of them are real."""
    lengths = cu.diff()[segments]
    columns = _columns(int(lengths.max()))
    real = columns < lengths[:, None]
    return torch.where(real, cu[segments][:, None] + columns, 0), real


@lru_cache(maxsize=1024)
def _columns(width: int) -> Tensor:
    return torch.arange(width)[None, :]
