# SPDX-License-Identifier: Apache-2.0
"""The model in plain PyTorch: dense tensors under masks, nothing packed.

One definition with two readers. The published schedule (`sclds.reference.published_schedule`) runs these functions on
the modules of the packed model, which holds the packed code against them, values and gradients. An exported folder, and
`sclds.load`, run them on `PlainSCL` (`parameters_scl`), whose modules only hold parameters, under the same names. So
the functions read modules by the names of their parameters, and the file imports nothing but PyTorch.

Shape suffixes: B samples, T text tokens, F frames, L patches of a frame, V = F + F·L vision tokens, C channels.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

THETA = 10000.0
"""Base of the rotary frequencies of Perception Encoder."""
RESIZE = {"clip": ("bicubic", False), "siglip2": ("bilinear", True), "perception_encoder": ("bilinear", False)}
"""By type of vision tower: how its position table is resized, and whether with antialias."""


def patches_of(pixels_BF3HW: Tensor, patch: int) -> Tensor:
    """Cut frames into patches: (B, F, L, 3·p·p), row-major, channel-major inside a patch."""
    grid = pixels_BF3HW.unflatten(-2, (-1, patch)).unflatten(-1, (-1, patch))
    return grid.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(2, 3)


def text_tokens(encoder: Any, ids_BT: Tensor, mask_BT: Tensor, pad_id: int) -> Tensor:
    """Encode texts (docs/method.md §2).

    Args:
        encoder: RoBERTa's embedding and layers.
        ids_BT: Token ids.
        mask_BT: True where a token is real.
        pad_id: Padding id; positions count from behind it.

    Returns:
        (B, T, C); rows of padding mean nothing.
    """
    e = encoder.embedding
    positions = torch.where(mask_BT, mask_BT.long().cumsum(1) + pad_id, pad_id)
    x = e.word_embedding[ids_BT] + e.position_embedding[positions] + e.type_embedding[0]
    x = F.layer_norm(x, x.shape[-1:], e.norm_weight, e.norm_bias, e.eps)
    x = F.dropout(x, e.dropout, e.training)
    for layer in encoder.layers:
        x = _post_norm(layer.attention_norm, _self_attention(layer.attention, x, mask_BT), x)
        x = _post_norm(layer.mlp_norm, _mlp(layer.mlp, x), x)
    return x


def vision_tokens(
    encoder: Any,
    kind: str,
    patches_BFLX: Tensor,
    video: bool,
    keep_BK: Tensor | None = None,
    replaced_BL: Tensor | None = None,
) -> Tensor:
    """Encode images, or videos of equally many frames (docs/method.md §2).

    Args:
        encoder: A vision tower.
        kind: Its type, `model.vision.type`.
        patches_BFLX: Normalized pixels of patches, as `patches_of` cuts them; L is a square.
        video: Whether frames carry a temporal embedding.
        keep_BK: Patches that are shown, the same in all frames; all without it.
        replaced_BL: True for patches that the mask token replaces.

    Returns:
        (B, F + F·K, C): the [CLS] of every frame, then patches frame by frame.
    """
    e, frames = encoder.embedding, patches_BFLX.shape[1]
    x = F.linear(patches_BFLX.to(e.patch_weight.dtype), e.patch_weight, getattr(e, "patch_bias", None))
    if replaced_BL is not None:
        x = torch.where(replaced_BL[:, None, :, None], e.mask_token, x)
    of_cls, of_patches = _positions(e.position_embedding, kind, round(x.shape[2] ** 0.5))
    time = e.temporal_embedding[:frames] if video else torch.zeros_like(e.temporal_embedding[:frames])
    x = x + of_patches + time[:, None]
    if keep_BK is not None:
        x = x.gather(2, keep_BK[:, None, :, None].expand(-1, frames, -1, x.shape[-1]))
    if kind == "siglip2":
        return _pooled_frames(encoder, x, e.probe + time)
    classes = (e.class_embedding + of_cls + time).expand(len(x), -1, -1)
    mask = _frame_mask(frames, x.shape[2], x.device) if frames > 1 else None
    angles = _angles(encoder, patches_BFLX.shape[2], frames, keep_BK) if kind == "perception_encoder" else None
    x = torch.cat((classes, x.flatten(1, 2)), dim=1)
    x = F.layer_norm(x, x.shape[-1:], e.norm_weight, e.norm_bias, e.eps)
    for block in encoder.blocks:
        x = _block(block, x, mask, angles)
    return _norm(encoder.norm, x)


def fused(model: Any, text: Tensor, text_mask: Tensor | None, vision: Tensor, vision_mask: Tensor | None) -> Any:
    """Run every fusion layer on every token of both streams.

    Args:
        model: Both streams' layers and the token types.
        text: (B, T, C) after its transform.
        text_mask: (B, T) True for real tokens; None if all are.
        vision: (B, V, C) after its transform.
        vision_mask: (B, V) as for text.

    Returns:
        Both streams, (B, T, C) and (B, V, C).
    """
    for state in _fusion_states(model, text, text_mask, vision, vision_mask):
        x, y = state
    return x, y


def text_to_vision_attention(
    model: Any, text: Tensor, text_mask: Tensor | None, vision: Tensor, vision_mask: Tensor | None, layer: int = -1
) -> Tensor:
    """Return the attention weights of a fusion layer's text → vision cross-attention, of every token and head.

    Fused attention gives no weights, so they are computed as they are defined: softmax(q kᵀ / √d). Weights times values
    are what the layer's attention gives.

    Args:
        model: As `fused` reads it.
        text: (B, T, C) after its transform.
        text_mask: (B, T) True for real tokens; None if all are.
        vision: (B, V, C) after its transform.
        vision_mask: (B, V) as for text.
        layer: Number of the layer; the last by default.

    Returns:
        (B, heads, T, V) float32; every row sums to 1.
    """
    number = range(len(model.cross_modal_text_layers))[layer]
    states = _fusion_states(model, text, text_mask, vision, vision_mask)
    x, y = next(state for at, state in enumerate(states) if at == number)
    return cross_attention_weights(model.cross_modal_text_layers[number], x, text_mask, y, vision_mask)


def cross_attention_weights(
    layer: Any, x: Tensor, mask: Tensor | None, other: Tensor, other_mask: Tensor | None
) -> Tensor:
    """Return the cross-attention weights (B, heads, rows, keys) of a fusion layer that reads (B, rows, C) and others.

    Arguments are those of the layer itself: its own stream and the other one, each with its mask.
    """
    x = _post_norm(layer.self_norm, _self_attention(layer.self_attention, x, mask), x)
    cross = layer.cross_attention
    q, k = (_split_heads(t, cross.heads).float() for t in (cross.q(x), cross.kv(other).chunk(2, dim=-1)[0]))
    scores = q @ k.mT / q.shape[-1] ** 0.5
    if other_mask is not None:
        scores = scores.masked_fill(~other_mask[:, None, None, :], -torch.inf)
    return scores.softmax(dim=-1)


def _fusion_states(
    model: Any, text: Tensor, text_mask: Tensor | None, vision: Tensor, vision_mask: Tensor | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield both streams before the first fusion layer and behind every one."""
    types = model.token_type_embeddings.weight
    x, y = text + types[0], vision + types[1]
    yield x, y
    for own, other in zip(model.cross_modal_text_layers, model.cross_modal_image_layers, strict=True):
        x, y = _fusion_layer(own, x, text_mask, y, vision_mask), _fusion_layer(other, y, vision_mask, x, text_mask)
        yield x, y


def projection(module: Any, x: Tensor) -> Tensor:
    """Return the contrastive projection of (…, C) rows, not normalized."""
    return module.out(F.gelu(_norm(module.norm, module.dense(x))))


def match_logits(model: Any, text_cls_BC: Tensor, vision_cls_BC: Tensor) -> Tensor:
    """Return ITM's logits (B, 2) of fused [CLS] rows: does not match, matches."""
    return model.itm_score(pooled_pair(model, text_cls_BC, vision_cls_BC))


def pooled_pair(model: Any, text_cls_BC: Tensor, vision_cls_BC: Tensor) -> Tensor:
    """Return fused [CLS] rows of both streams, each through its pooler, side by side: (B, 2C)."""
    poolers = (model.cross_modal_text_pooler, model.cross_modal_image_pooler)
    pooled = [F.linear(x, p.weight, p.bias).tanh() for p, x in zip(poolers, (text_cls_BC, vision_cls_BC), strict=True)]
    return torch.cat(pooled, dim=1)


def word_logits(head: Any, x: Tensor) -> Tensor:
    """Return MLM's logits (…, vocabulary) of fused text rows."""
    return head.decoder(_norm(head.norm, F.gelu(head.dense(x))))


def _norm(module: Any, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], module.weight, module.bias, module.eps)


def _mlp(module: Any, x: Tensor) -> Tensor:
    return module.down(module.activation(module.up(x)))


def _post_norm(module: Any, branch: Tensor, residual: Tensor) -> Tensor:
    return _norm(module.norm, F.dropout(branch, module.dropout, module.training) + residual)


def _attention(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None, dropout: float = 0.0) -> Tensor:
    """Attend among (B, rows, C); `mask` (rows, keys) or (B, 1, 1, keys) is True where a key may be seen."""
    q, k, v = (_split_heads(t, heads) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout).transpose(1, 2).flatten(2)


def _split_heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _self_attention(module: Any, x: Tensor, mask: Tensor | None) -> Tensor:
    q, k, v = F.linear(x, module.qkv.weight, module.qkv.bias).chunk(3, dim=-1)
    return module.out(_masked(module, q, k, v, mask))


def _cross_attention(module: Any, x: Tensor, other: Tensor, mask: Tensor | None) -> Tensor:
    k, v = module.kv(other).chunk(2, dim=-1)
    return module.out(_masked(module, module.q(x), k, v, mask))


def _masked(module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    keys = None if mask is None else mask[:, None, None, :]
    return _attention(q, k, v, module.heads, keys, module.dropout if module.training else 0.0)


def _fusion_layer(layer: Any, x: Tensor, mask: Tensor | None, other: Tensor, other_mask: Tensor | None) -> Tensor:
    x = _post_norm(layer.self_norm, _self_attention(layer.self_attention, x, mask), x)
    x = _post_norm(layer.cross_norm, _cross_attention(layer.cross_attention, x, other, other_mask), x)
    return _post_norm(layer.mlp_norm, _mlp(layer.mlp, x), x)


def _block(block: Any, x: Tensor, mask: Tensor | None, angles: Tensor | None = None) -> Tensor:
    """Run a pre-norm block of a vision tower; `angles` (1 or B, V, D/2) turn queries and keys."""
    normed = _norm(block.norm_1, x)
    q, k, v = F.linear(normed, block.qkv.weight, block.qkv.bias).chunk(3, dim=-1)
    if angles is not None:
        q, k = (_turned(t, block.heads, angles) for t in (q, k))
    x = x + block.out(_attention(q, k, v, block.heads, mask))
    return x + _mlp(block.mlp, _norm(block.norm_2, x))


def _pooled_frames(encoder: Any, x_BFLC: Tensor, probes_FC: Tensor) -> Tensor:
    """Return SigLIP 2's tokens: blocks over the patches of each frame, then a probe a frame over those of all."""
    count, frames = x_BFLC.shape[:2]
    x = x_BFLC.flatten(0, 1)
    for block in encoder.blocks:
        x = _block(block, x, None)
    patches = _norm(encoder.norm, x).unflatten(0, (count, frames)).flatten(1, 2)
    pooling = encoder.pooling
    k, v = pooling.kv(patches).chunk(2, dim=-1)
    q = pooling.q(probes_FC.expand(count, -1, -1))
    pooled = pooling.out(_attention(q, k, v, pooling.heads, None))
    pooled = pooled + _mlp(pooling.mlp, _norm(pooling.norm, pooled))
    return torch.cat((pooled, patches), dim=1)


def _frame_mask(frames: int, patches: int, device: torch.device) -> Tensor:
    """Return (V, V): a patch sees its own frame, a [CLS] token sees every frame."""
    numbers = torch.arange(frames, device=device)
    frame = torch.cat((numbers, numbers.repeat_interleave(patches)))
    is_class = torch.arange(len(frame), device=device) < frames
    return is_class[:, None] | (frame[:, None] == frame[None, :])


def _positions(table: Tensor, kind: str, grid: int) -> tuple[Tensor, Tensor]:
    """Return the position of [CLS] (0 where the tower has none) and (grid², C) of the patches."""
    first = int(kind != "siglip2")
    of_cls, plane = (table[0] if first else torch.zeros_like(table[0])), table[first:]
    native = round(len(plane) ** 0.5)
    if native == grid:
        return of_cls, plane
    mode, antialias = RESIZE[kind]
    # half types have no bicubic kernel on the CPU
    image = plane.unflatten(0, (native, native)).permute(2, 0, 1)[None].float()
    resized = F.interpolate(image, size=(grid, grid), mode=mode, align_corners=False, antialias=antialias)
    return of_cls, resized[0].permute(1, 2, 0).flatten(0, 1).to(table.dtype)


def _angles(encoder: Any, patches: int, frames: int, keep_BK: Tensor | None) -> Tensor:
    """Return the rotary angles (1 or B, F + F·K, D/2) fp32: of columns, then of rows, counted from 1; 0 for [CLS]."""
    device = encoder.embedding.patch_weight.device
    grid, count = round(patches**0.5), encoder.embedding.patch_weight.shape[0] // encoder.blocks[0].heads // 4
    frequencies = THETA ** -(torch.arange(count, device=device).float() / count)
    line = (torch.arange(grid, device=device).float() + 1)[:, None] * frequencies
    shown = torch.cat((line.expand(grid, grid, -1), line[:, None].expand(grid, grid, -1)), dim=-1).flatten(0, 1)[None]
    if keep_BK is not None:
        shown = shown[0][keep_BK]
    return torch.cat((shown.new_zeros(len(shown), frames, 2 * count), shown.repeat(1, frames, 1)), dim=1)


def _turned(x_BVC: Tensor, heads: int, angles: Tensor) -> Tensor:
    """Turn neighboring pairs of every head's channels by the token's angles."""
    even, odd = x_BVC.unflatten(-1, (heads, -1, 2)).unbind(-1)
    cos, sin = angles.cos()[:, :, None], angles.sin()[:, :, None]
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(2).to(x_BVC.dtype)
