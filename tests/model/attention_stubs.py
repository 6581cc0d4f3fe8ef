"""Stand-ins for attention libraries that need a GPU: their published signatures, what they say computed in plain torch.

Each source text declares the arguments of the library in their order, and `tests/model/test_attention_backends.py`
holds torch's own against the installed one. Sources:
* flash-attn 2.8.3, `flash_attn/flash_attn_interface.py`;
* flash-attn 3, `hopper/flash_attn_interface.py` of Dao-AILab/flash-attention at 01afd16;
* flash-attn 4.0.0b36, `flash_attn/cute/interface.py`;
* torch 2.13, `torch/nn/attention/varlen.py`.
"""

PLAIN = '''
import torch
import torch.nn.functional as F

calls = []


def plain(name, q, k, v, cu_q, cu_k, max_q, max_k, dropout=0.0):
    """Attend segment by segment; refuse what the kernels refuse."""
    calls.append((name, dropout))
    assert cu_q.dtype == cu_k.dtype == torch.int32 and len(cu_q) == len(cu_k) > 1
    assert (int(cu_q.diff().max()), int(cu_k.diff().max())) == (max_q, max_k)
    assert int(cu_q[-1]) == len(q) and int(cu_k[-1]) == len(k) == len(v)
    assert all(x.stride(-1) == 1 for x in (q, k, v))
    results = []
    for i in range(len(cu_q) - 1):
        rows, keys = slice(int(cu_q[i]), int(cu_q[i + 1])), slice(int(cu_k[i]), int(cu_k[i + 1]))
        a, b, c = (x.transpose(0, 1) for x in (q[rows], k[keys], v[keys]))
        weights = (a @ b.transpose(1, 2) * a.shape[-1] ** -0.5).softmax(-1)
        results.append((F.dropout(weights, dropout) @ c).transpose(0, 1))
    return torch.cat(results)
'''
FLASH_ATTN = (
    PLAIN
    + """

def flash_attn_varlen_func(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None, causal=False,
    window_size=(-1, -1), softcap=0.0, alibi_slopes=None, deterministic=False, return_attn_probs=False,
    block_table=None,
):
    return plain("func", q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p)


def flash_attn_varlen_qkvpacked_func(
    qkv, cu_seqlens, max_seqlen, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0,
    alibi_slopes=None, deterministic=False, return_attn_probs=False,
):
    return plain("qkvpacked", *qkv.unbind(1), cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, dropout_p)


def flash_attn_varlen_kvpacked_func(
    q, kv, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None, causal=False,
    window_size=(-1, -1), softcap=0.0, alibi_slopes=None, deterministic=False, return_attn_probs=False,
):
    return plain("kvpacked", q, *kv.unbind(1), cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p)
"""
)
FLASH_ATTN_3 = (
    PLAIN
    + """

def flash_attn_varlen_func(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, seqused_q=None, seqused_k=None,
    softmax_scale=None, causal=False, qv=None, q_descale=None, k_descale=None, v_descale=None, window_size=(-1, -1),
    attention_chunk=0, softcap=0.0, num_splits=1, pack_gqa=None, deterministic=False, sm_margin=0,
    return_attn_probs=False,
):
    return plain("func", q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
"""
)
FLASH_ATTN_4 = (
    PLAIN
    + """

def flash_attn_varlen_func(
    q, k, v, qv=None, cu_seqlens_q=None, cu_seqlens_k=None, max_seqlen_q=None, max_seqlen_k=None, min_seqlen_k=None,
    seqused_q=None, seqused_k=None, gather_kv_indices=None, page_table=None, softmax_scale=None, causal=False,
    window_size=(None, None), learnable_sink=None, softcap=0.0, num_splits=1, pack_gqa=None, deterministic=False,
    score_mod=None, score_mod_bwd=None, mask_mod=None, block_sparse_tensors=None, aux_tensors=None, aux_scalars=None,
    return_lse=False, scheduler_metadata=None, seqlen_k_per_split=None, disable_scheduler_metadata=False,
    gather_bwd_recompute_p=False, gather_bwd_token_chunk=None,
):
    assert qv is None
    return plain("func", q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k), None
"""
)
TORCH_VARLEN = (
    PLAIN
    + """

def varlen_attn(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1),
    enable_gqa=False, seqused_k=None, block_table=None, num_splits=None,
):
    return plain("func", query, key, value, cu_seq_q, cu_seq_k, max_q, max_k)
"""
)
STUBS = {
    "flash_attn": ("flash_attn", FLASH_ATTN),
    "flash_attn_3": ("flash_attn_interface", FLASH_ATTN_3),
    "flash_attn_4": ("flash_attn.cute", FLASH_ATTN_4),
    "torch_varlen": ("torch.nn.attention.varlen", TORCH_VARLEN),
}
"""Backend → the module that it is imported from, and its source."""
