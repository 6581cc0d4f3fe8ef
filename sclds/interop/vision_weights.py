"""Vision weights of others by format: the names of their tensors, and what of them nothing here reads.

A row leads from a parameter of our tower to the tensors that make it up, joined along the first axis. A new tower
brings a table for each format that its weights come in.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sclds.interop.preprocessing import CLIP_NORMALIZATION, HALF_NORMALIZATION, Normalization

Names = tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class VisionWeights:
    """The vision encoder of somebody's model."""

    description: str
    """What people call it, with its place."""
    section: dict[str, Any]
    """The `model.vision` section that fits, all blocks counted."""
    state: Mapping[str, Tensor]
    names: Names
    """Of the tensors in `state`."""
    unused: str = r"$^"
    """Pattern of names that may be there and that nothing reads."""
    blocks: str = field(default=r"blocks\.(\d+)\.")
    """Pattern of the names of blocks, their number in it."""
    normalization: Normalization | None = None
    """Means and deviations that its own settings say its pixels were normalized by; None: they say nothing."""

    @property
    def pixels(self) -> Normalization:
        """Means and deviations of its pixels: its own, or those that its type was published with."""
        return self.normalization or (CLIP_NORMALIZATION if self.section["type"] == "clip" else HALF_NORMALIZATION)

    def names_of(self, name: str) -> list[str]:
        """Return the tensors that make up a parameter of our tower; none if the format has no such thing."""
        for pattern, replacements in self.names:
            if found := re.fullmatch(pattern, name):
                return [found.expand(replacement) for replacement in replacements]
        return []


HUGGING_FACE_BLOCKS: Names = (
    (r"blocks\.(\d+)\.norm_(\d)\.(.+)", (r"encoder.layers.\1.layer_norm\2.\3",)),
    (r"blocks\.(\d+)\.qkv\.(.+)", tuple(rf"encoder.layers.\1.self_attn.{part}_proj.\2" for part in "qkv")),
    (r"blocks\.(\d+)\.out\.(.+)", (r"encoder.layers.\1.self_attn.out_proj.\2",)),
    (r"blocks\.(\d+)\.mlp\.up\.(.+)", (r"encoder.layers.\1.mlp.fc1.\2",)),
    (r"blocks\.(\d+)\.mlp\.down\.(.+)", (r"encoder.layers.\1.mlp.fc2.\2",)),
    (r"norm\.(.+)", (r"post_layernorm.\1",)),
    (r"embedding\.position_embedding", ("embeddings.position_embedding.weight",)),
    (r"embedding\.patch_(weight|bias)", (r"embeddings.patch_embedding.\1",)),
)
HUGGING_FACE_CLIP: Names = (
    *HUGGING_FACE_BLOCKS,
    (r"embedding\.class_embedding", ("embeddings.class_embedding",)),
    (r"embedding\.norm_(weight|bias)", (r"pre_layrnorm.\1",)),
)
HUGGING_FACE_SIGLIP: Names = (
    *HUGGING_FACE_BLOCKS,
    (r"embedding\.probe", ("head.probe",)),
    (r"pooling\.(q|kv)\.(.+)", (r"head.attention.\1.\2",)),
    (r"pooling\.out\.(.+)", (r"head.attention.out_proj.\1",)),
    (r"pooling\.norm\.(.+)", (r"head.layernorm.\1",)),
    (r"pooling\.mlp\.up\.(.+)", (r"head.mlp.fc1.\1",)),
    (r"pooling\.mlp\.down\.(.+)", (r"head.mlp.fc2.\1",)),
)
OPEN_CLIP: Names = (
    (r"embedding\.class_embedding", ("class_embedding",)),
    (r"embedding\.position_embedding", ("positional_embedding",)),
    (r"embedding\.patch_weight", ("conv1.weight",)),
    (r"embedding\.norm_(weight|bias)", (r"ln_pre.\1",)),
    (r"blocks\.(\d+)\.norm_(\d)\.(.+)", (r"transformer.resblocks.\1.ln_\2.\3",)),
    (r"blocks\.(\d+)\.qkv\.(.+)", (r"transformer.resblocks.\1.attn.in_proj_\2",)),
    (r"blocks\.(\d+)\.out\.(.+)", (r"transformer.resblocks.\1.attn.out_proj.\2",)),
    (r"blocks\.(\d+)\.mlp\.up\.(.+)", (r"transformer.resblocks.\1.mlp.c_fc.\2",)),
    (r"blocks\.(\d+)\.mlp\.down\.(.+)", (r"transformer.resblocks.\1.mlp.c_proj.\2",)),
    (r"norm\.(.+)", (r"ln_post.\1",)),
)
TIMM: Names = (
    (r"embedding\.class_embedding", ("cls_token",)),
    (r"embedding\.probe", ("attn_pool.latent",)),
    (r"embedding\.position_embedding", ("pos_embed",)),
    (r"embedding\.patch_(weight|bias)", (r"patch_embed.proj.\1",)),
    (r"embedding\.norm_(weight|bias)", (r"norm_pre.\1",)),
    (r"blocks\.(\d+)\.norm_(\d)\.(.+)", (r"blocks.\1.norm\2.\3",)),
    (r"blocks\.(\d+)\.qkv\.(.+)", (r"blocks.\1.attn.qkv.\2",)),
    (r"blocks\.(\d+)\.out\.(.+)", (r"blocks.\1.attn.proj.\2",)),
    (r"blocks\.(\d+)\.mlp\.up\.(.+)", (r"blocks.\1.mlp.fc1.\2",)),
    (r"blocks\.(\d+)\.mlp\.down\.(.+)", (r"blocks.\1.mlp.fc2.\2",)),
    (r"norm\.(.+)", (r"norm.\1",)),
    (r"pooling\.(q|kv|norm)\.(.+)", (r"attn_pool.\1.\2",)),
    (r"pooling\.out\.(.+)", (r"attn_pool.proj.\1",)),
    (r"pooling\.mlp\.up\.(.+)", (r"attn_pool.mlp.fc1.\1",)),
    (r"pooling\.mlp\.down\.(.+)", (r"attn_pool.mlp.fc2.\1",)),
)
HUGGING_FACE_LAYERS, OPEN_CLIP_BLOCKS = r"encoder\.layers\.(\d+)\.", r"transformer\.resblocks\.(\d+)\."


def normalization_in(settings: Any, keys: tuple[str, str]) -> Normalization | None:
    """Return means and deviations out of somebody's settings; None where they are not three numbers each."""
    values = [settings.get(key) for key in keys] if isinstance(settings, dict) else []
    try:
        mean, std = (tuple(float(number) for number in value or ()) for value in values)
    except (TypeError, ValueError):
        return None
    return (mean, std) if len(mean) == len(std) == 3 and min(std) > 0 else None


def split_queries(state: Mapping[str, Tensor], attention: str) -> dict[str, Tensor]:
    """Return a state whose `ATTENTION.in_proj_*`, queries above keys and values, is `ATTENTION.q.*` and `.kv.*`."""
    result = dict(state)
    for kind in ("weight", "bias"):
        joined = result.pop(f"{attention}.in_proj_{kind}", None)
        if joined is not None:
            width = joined.shape[0] // 3
            result[f"{attention}.q.{kind}"], result[f"{attention}.kv.{kind}"] = joined.split((width, 2 * width))
    return result


def channels_first(weight: Tensor, patch: int) -> Tensor:
    """Return a patch embedding (C, p·p·3), channels last inside a patch, as (C, 3, p, p)."""
    return torch.movedim(weight.unflatten(1, (patch, patch, 3)), 3, 1)
