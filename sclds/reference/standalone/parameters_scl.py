# SPDX-License-Identifier: Apache-2.0
"""The parameters of a model, under their names in training, for the functions of `plain_scl` to compute with.

Shape suffixes: B samples, T text tokens, F frames, L patches of a frame, X = 3·p·p pixels of a patch, V = F + F·L, C
channels.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .plain_scl import (
    fused,
    match_logits,
    pooled_pair,
    projection,
    text_to_vision_attention,
    text_tokens,
    vision_tokens,
)

ACTIVATIONS = {
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
}
OWN_ACTIVATION = {"clip": "quick_gelu", "siglip2": "gelu_tanh", "perception_encoder": "gelu"}


class Parameters(nn.Module):
    """A module of parameters and settings by name, which the functions of this file compute with.

    Args:
        shapes: Of the parameters.
        settings: Further attributes: submodules, epsilons, numbers of heads, dropout.
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]] | None = None, **settings: Any):
        super().__init__()
        for name, shape in (shapes or {}).items():
            setattr(self, name, nn.Parameter(torch.empty(shape)))
        for name, value in settings.items():
            setattr(self, name, value)


class PlainSCL(Parameters):
    """A model in plain PyTorch, whose parameters have the names that they have in training.

    Args:
        architecture: The `model` section of a training configuration, every value given.
        pad_id: Padding id of the tokenizer, behind which positions count.
    """

    def __init__(self, architecture: dict[str, Any], pad_id: int):
        vision, text, fusion = (architecture[part] for part in ("vision", "text", "fusion"))
        width, words, eps = fusion["width"], text["vocab_size"], fusion["layer_norm_eps"]
        super().__init__(
            vision_encoder=_vision_tower(vision),
            text_encoder=_text_tower(text),
            cross_modal_text_transform=nn.Linear(text["width"], width),
            cross_modal_image_transform=nn.Linear(vision["width"], width),
            token_type_embeddings=Parameters({"weight": (fusion["token_types"], width)}),
            cross_modal_text_layers=nn.ModuleList(_fusion_parameters(fusion) for _ in range(fusion["layers"])),
            cross_modal_image_layers=nn.ModuleList(_fusion_parameters(fusion) for _ in range(fusion["layers"])),
            cross_modal_text_pooler=nn.Linear(width, width),
            cross_modal_image_pooler=nn.Linear(width, width),
            mlm_score=Parameters(
                dense=nn.Linear(width, width), norm=nn.LayerNorm(width, eps), decoder=nn.Linear(width, words)
            ),
            itm_score=nn.Linear(2 * width, 2),
            text_projection=_projection(width, architecture["projection"], text["layer_norm_eps"]),
            vision_projection=_projection(width, architecture["projection"], vision["layer_norm_eps"]),
            temperature=Parameters({"value": (1,)}),
        )
        self._kind, self._pad_id = vision["type"], pad_id

    def encode_text(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Return (B, T, C) tokens of texts that are real where the mask is True, after the map to fusion."""
        linear: Any = self.cross_modal_text_transform
        return linear(text_tokens(self.text_encoder, ids_BT, mask_BT, self._pad_id))

    def encode_vision(self, patches_BFLX: Tensor, video: bool, keep_BK: Tensor | None = None) -> Tensor:
        """Return (B, F + F·L, C) tokens of images or videos, frame [CLS] tokens first, after the map to fusion.

        With `keep_BK` only these patches are shown, the same in all frames: (B, F + F·K, C).
        """
        linear: Any = self.cross_modal_image_transform
        return linear(vision_tokens(self.vision_encoder, self._kind, patches_BFLX, video, keep_BK))

    def project_text(self, tokens_BTC: Tensor, mask_BT: Tensor) -> Tensor:
        """Return the contrastive projection (B, P) of encoded texts, not normalized."""
        return projection(self.text_projection, first_token(tokens_BTC, mask_BT))

    def project_vision(self, tokens_BVC: Tensor, frames: int) -> Tensor:
        """Return the contrastive projection (B, P) of encoded images or videos, not normalized."""
        return projection(self.vision_projection, tokens_BVC[:, :frames].mean(dim=1))

    def fuse(self, text_BTC: Tensor, mask_BT: Tensor, vision_BVC: Tensor) -> tuple[Tensor, Tensor]:
        """Return both streams after fusion, (B, T, C) and (B, F + F·L, C)."""
        return fused(self, text_BTC, mask_BT, vision_BVC, None)

    def attention(self, text_BTC: Tensor, mask_BT: Tensor, vision_BVC: Tensor) -> Tensor:
        """Return the last fusion layer's attention weights (B, heads, T, F + F·L) of text tokens to vision tokens."""
        return text_to_vision_attention(self, text_BTC, mask_BT, vision_BVC, None)

    def match(self, text_BTC: Tensor, mask_BT: Tensor, vision_BVC: Tensor, frames: int) -> Tensor:
        """Return ITM's logits (B, 2) of fused streams: does not match, matches."""
        return match_logits(self, first_token(text_BTC, mask_BT), vision_BVC[:, :frames].mean(dim=1))

    def pool(self, text_BTC: Tensor, mask_BT: Tensor, vision_BVC: Tensor, frames: int) -> Tensor:
        """Return what heads read of fused streams, (B, 2C)."""
        return pooled_pair(self, first_token(text_BTC, mask_BT), vision_BVC[:, :frames].mean(dim=1))


def first_token(tokens_BTC: Tensor, mask_BT: Tensor) -> Tensor:
    """Return the first real token of every text (B, C), its [CLS]."""
    return tokens_BTC[torch.arange(len(tokens_BTC), device=tokens_BTC.device), mask_BT.long().argmax(dim=1)]


def _projection(width: int, out: int, eps: float) -> nn.Module:
    return Parameters(dense=nn.Linear(width, width), norm=nn.LayerNorm(width, eps), out=nn.Linear(width, out))


def _mlp_parameters(width: int, inner: int, activation: str) -> nn.Module:
    return Parameters(up=nn.Linear(width, inner), down=nn.Linear(inner, width), activation=ACTIVATIONS[activation])


def _post_norm_parameters(width: int, eps: float, dropout: float) -> nn.Module:
    return Parameters(norm=nn.LayerNorm(width, eps), dropout=dropout)


def _self_attention_parameters(section: dict[str, Any]) -> nn.Module:
    width = section["width"]
    qkv, out = nn.Linear(width, 3 * width), nn.Linear(width, width)
    return Parameters(qkv=qkv, out=out, heads=section["heads"], dropout=_attention_dropout(section))


def _attention_dropout(section: dict[str, Any]) -> float:
    """Return the dropout of attention weights; exports of before there was one have that of the section."""
    given: float | None = section.get("attention_dropout")
    return section["dropout"] if given is None else given


def _fusion_parameters(section: dict[str, Any]) -> nn.Module:
    width, eps, dropout = section["width"], section["layer_norm_eps"], section["dropout"]
    cross = Parameters(
        q=nn.Linear(width, width),
        kv=nn.Linear(width, 2 * width),
        out=nn.Linear(width, width),
        heads=section["heads"],
        dropout=_attention_dropout(section),
    )
    return Parameters(
        self_attention=_self_attention_parameters(section),
        self_norm=_post_norm_parameters(width, eps, dropout),
        cross_attention=cross,
        cross_norm=_post_norm_parameters(width, eps, dropout),
        mlp=_mlp_parameters(width, section["mlp_ratio"] * width, "gelu"),
        mlp_norm=_post_norm_parameters(width, eps, dropout),
    )


def _text_tower(section: dict[str, Any]) -> nn.Module:
    width, eps, dropout = section["width"], section["layer_norm_eps"], section["dropout"]
    tables = {"word_embedding": (section["vocab_size"], width), "position_embedding": (section["max_positions"], width)}
    shapes = tables | {"type_embedding": (1, width), "norm_weight": (width,), "norm_bias": (width,)}
    layers = [
        Parameters(
            attention=_self_attention_parameters(section),
            attention_norm=_post_norm_parameters(width, eps, dropout),
            mlp=_mlp_parameters(width, 4 * width, "gelu"),
            mlp_norm=_post_norm_parameters(width, eps, dropout),
        )
        for _ in range(section["layers"])
    ]
    return Parameters(embedding=Parameters(shapes, eps=eps, dropout=dropout), layers=nn.ModuleList(layers))


def _vision_tower(section: dict[str, Any]) -> nn.Module:
    width, kind, eps = section["width"], section["type"], section["layer_norm_eps"]
    inner, activation = section["mlp_width"] or 4 * width, section["activation"] or OWN_ACTIVATION[kind]
    native, pools = (section["pretrained_image_size"] // section["patch_size"]) ** 2, kind == "siglip2"
    shapes: dict[str, tuple[int, ...]] = {
        "patch_weight": (width, 3 * section["patch_size"] ** 2),
        **({"patch_bias": (width,), "probe": (width,)} if pools else {"class_embedding": (width,)}),
        "mask_token": (width,),
        "position_embedding": (native + (not pools), width),
        "temporal_embedding": (section["max_frames"], width),
        **({} if pools else {"norm_weight": (width,), "norm_bias": (width,)}),
    }
    blocks = [
        Parameters(
            norm_1=nn.LayerNorm(width, eps),
            qkv=nn.Linear(width, 3 * width),
            out=nn.Linear(width, width),
            norm_2=nn.LayerNorm(width, eps),
            mlp=_mlp_parameters(width, inner, activation),
            heads=section["heads"],
        )
        for _ in range(section["layers"])
    ]
    pooling = {
        "q": nn.Linear(width, width),
        "kv": nn.Linear(width, 2 * width),
        "out": nn.Linear(width, width),
        "norm": nn.LayerNorm(width, eps),
        "mlp": _mlp_parameters(width, inner, activation),
        "heads": section["heads"],
    }
    further: dict[str, Any] = {"pooling": Parameters(**pooling)} if pools else {}
    return Parameters(
        embedding=Parameters(shapes, eps=eps),
        blocks=nn.ModuleList(blocks),
        norm=nn.LayerNorm(width, eps),
        **further,
    )
