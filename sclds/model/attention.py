"""Attention over packed sequences: one function for all backends, which compute what a plan of the batch says.

Shape suffixes: N query rows, M key rows, H heads, D channels of a head.
"""

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from scl_kernels import gather_rows
from scl_kernels.validation import check_tensor
from sclds.batch.attention_plan import AttentionPlan
from sclds.machine.attention import BACKENDS


def attend(q_NHD: Tensor, k_MHD: Tensor, v_MHD: Tensor, plan: AttentionPlan, dropout: float = 0.0) -> Tensor:
    """Scaled dot-product attention within segments.

    Args:
        q_NHD: Queries, fp32, bf16 or fp16.
        k_MHD: Keys.
        v_MHD: Values.
        plan: Segments of queries and keys, and who computes.
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
    if plan.backend == "sdpa":
        return _attend_sdpa(q_NHD, k_MHD, v_MHD, plan, dropout)
    segments = plan.segments
    if plan.backend == "flash_attn":
        from flash_attn import flash_attn_varlen_func

        return flash_attn_varlen_func(q_NHD, k_MHD, v_MHD, *segments, dropout_p=dropout)
    if dropout:
        raise ValueError(f"expected dropout 0 for {plan.backend}, which has none, got {dropout:g}")
    if plan.backend == "torch_varlen":
        from torch.nn.attention.varlen import varlen_attn

        return cast(Tensor, varlen_attn(q_NHD, k_MHD, v_MHD, *segments))
    return _without_statistics(_newer_flash_attention(plan)(q_NHD, k_MHD, v_MHD, **plan.named_segments))


def attend_qkv(qkv_N3HD: Tensor, plan: AttentionPlan, dropout: float = 0.0) -> Tensor:
    """Self-attention of queries, keys and values that lie in one tensor, see `attend`.

    Args:
        qkv_N3HD: Queries, keys, values of every row.
        plan: Segments, the same of queries and keys.
        dropout: Probability of dropping an attention weight.

    Returns:
        (N, H, D).

    Raises:
        ValueError: Rows are not those of the plan.
    """
    check_tensor("qkv", qkv_N3HD, shape=(plan.rows_q, 3, None, None))
    if not BACKENDS[plan.backend].packed or not len(qkv_N3HD):
        q_NHD, k_NHD, v_NHD = qkv_N3HD.unbind(1)
        return attend(q_NHD, k_NHD, v_NHD, plan, dropout)
    from flash_attn import flash_attn_varlen_qkvpacked_func

    cu_seqlens, _, longest, _ = plan.segments
    return flash_attn_varlen_qkvpacked_func(qkv_N3HD, cu_seqlens, longest, dropout_p=dropout)


def attend_kv(q_NHD: Tensor, kv_M2HD: Tensor, plan: AttentionPlan, dropout: float = 0.0) -> Tensor:
    """Attention with keys and values that lie in one tensor, see `attend`.

    Args:
        q_NHD: Queries.
        kv_M2HD: Keys and values of every row.
        plan: Segments of queries and keys.
        dropout: Probability of dropping an attention weight.

    Returns:
        (N, H, D).

    Raises:
        ValueError: Rows are not those of the plan, or queries, keys and values do not fit together.
    """
    check_tensor("q", q_NHD, shape=(plan.rows_q, None, None))
    check_tensor("kv", kv_M2HD, shape=(plan.rows_k, 2, *q_NHD.shape[1:]), dtypes=(q_NHD.dtype,), device=q_NHD.device)
    if not BACKENDS[plan.backend].packed or not len(q_NHD):
        k_MHD, v_MHD = kv_M2HD.unbind(1)
        return attend(q_NHD, k_MHD, v_MHD, plan, dropout)
    from flash_attn import flash_attn_varlen_kvpacked_func

    return flash_attn_varlen_kvpacked_func(q_NHD, kv_M2HD, *plan.segments, dropout_p=dropout)


def _newer_flash_attention(plan: AttentionPlan) -> Callable[..., Tensor | tuple[Tensor, ...]]:
    """Return the function of flash-attn 3 or 4, which give their arguments another order but the same names."""
    if plan.backend == "flash_attn_3":
        from flash_attn_interface import flash_attn_varlen_func as function
    else:
        from flash_attn.cute import flash_attn_varlen_func as function
    return function


def _without_statistics(found: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Return the output alone: flash-attn 4, and 3 until August 2025, return the log-sum-exp of each row with it."""
    return found if isinstance(found, Tensor) else found[0]


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
    rows, 64 channels, one core with AVX512-BF16: 26.7 ms against 3.6 ms, forward and backward), so it is not used. The
    products round scaled queries and scores to bf16, which fused attention keeps in fp32: outputs are 0.3 to 0.4 % off
    (root mean square) where rounding the exact ones to bf16 makes 0.17 %.
    """
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = scores.softmax(-1, dtype=torch.float32).to(q.dtype)
    return F.dropout(weights, dropout) @ v
