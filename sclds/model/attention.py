"""Attention over packed sequences: one function for all backends, which compute what a plan of the batch says.

Shape suffixes: N query rows, M key rows, H heads, D channels of a head.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from scl_kernels import gather_rows
from scl_kernels.validation import check_tensor
from sclds.batch.attention_plan import AttentionPlan


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
    assert plan.cu_seqlens_q is not None, "planned for a variable-length backend"
    assert plan.cu_seqlens_k is not None, "planned for a variable-length backend"
    segments = (plan.cu_seqlens_q, plan.cu_seqlens_k, plan.max_q, plan.max_k)
    if plan.backend == "torch_varlen":
        from torch.nn.attention.varlen import varlen_attn

        return cast(Tensor, varlen_attn(q_NHD, k_MHD, v_MHD, *segments))
    from flash_attn import flash_attn_varlen_func

    return flash_attn_varlen_func(q_NHD, k_MHD, v_MHD, *segments, dropout_p=dropout)


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
