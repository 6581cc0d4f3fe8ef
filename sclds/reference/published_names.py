"""Names and shapes of the released SCL and GLSCL checkpoints, and the way from there to our parameters and back.

Released weights keep queries, keys and values of text and fusion apart; here they are one matrix. Nothing else differs
but names, a few leading axes of one, and the patch filter, which is a linear map here.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

UNUSED = re.compile(
    r"vision_transformer\.(decoder_\w+|mask_token$)|text_transformer\.pooler\.|text_transformer\.embeddings\.position_ids$"
)
"""Parts that released checkpoints carry and no computation of the method reads."""

_PREFIXES = [
    (r"vision_encoder\.embedding\.class_embedding", "vision_transformer.visual.class_embedding"),
    (r"vision_encoder\.embedding\.mask_token", "vision_transformer.visual.visual_mask_token"),
    (r"vision_encoder\.embedding\.position_embedding", "vision_transformer.visual.positional_embedding"),
    (r"vision_encoder\.embedding\.temporal_embedding", "vision_transformer.visual.temporal_embed"),
    (r"vision_encoder\.embedding\.patch_weight", "vision_transformer.visual.conv1.weight"),
    (r"vision_encoder\.embedding\.norm_", "vision_transformer.visual.ln_pre."),
    (r"vision_encoder\.blocks\.(\d+)\.norm_", r"vision_transformer.visual.transformer.resblocks.\1.ln_"),
    (r"vision_encoder\.blocks\.(\d+)\.qkv\.", r"vision_transformer.visual.transformer.resblocks.\1.attn.in_proj_"),
    (r"vision_encoder\.blocks\.(\d+)\.out\.", r"vision_transformer.visual.transformer.resblocks.\1.attn.out_proj."),
    (r"vision_encoder\.blocks\.(\d+)\.mlp\.up\.", r"vision_transformer.visual.transformer.resblocks.\1.mlp.c_fc."),
    (r"vision_encoder\.blocks\.(\d+)\.mlp\.down\.", r"vision_transformer.visual.transformer.resblocks.\1.mlp.c_proj."),
    (r"vision_encoder\.norm\.", "vision_transformer.visual.ln_post."),
    (r"text_encoder\.embedding\.(word|position)_embedding", r"text_transformer.embeddings.\1_embeddings.weight"),
    (r"text_encoder\.embedding\.type_embedding", "text_transformer.embeddings.token_type_embeddings.weight"),
    (r"text_encoder\.embedding\.norm_", "text_transformer.embeddings.LayerNorm."),
    (r"text_encoder\.layers\.(\d+)\.", r"text_transformer.encoder.layer.\1."),
    (r"(cross_modal_\w+_pooler)\.", r"\1.dense."),
    (r"mlm_score\.(dense)\.", r"mlm_score.transform.\1."),
    (r"mlm_score\.norm\.", "mlm_score.transform.LayerNorm."),
    (r"mlm_score\.decoder\.bias", "mlm_score.bias"),
    (r"itm_score\.", "itm_score.fc."),
    (r"text_projection\.", "language_proj."),
    (r"vision_projection\.", "vision_proj."),
    (r"temperature\.value", "cl_temp"),
]
_LAYER_PARTS = [
    (r"\.(?:self_)?attention\.out\.", ".attention.output.dense."),
    (r"\.(?:attention|self)_norm\.norm\.", ".attention.output.LayerNorm."),
    (r"\.cross_attention\.out\.", ".crossattention.output.dense."),
    (r"\.cross_norm\.norm\.", ".crossattention.output.LayerNorm."),
    (r"\.mlp\.up\.", ".intermediate.dense."),
    (r"\.mlp\.down\.", ".output.dense."),
    (r"\.mlp_norm\.norm\.", ".output.LayerNorm."),
    (r"^(\w+_proj)\.dense\.", r"\1.0."),
    (r"^(\w+_proj)\.norm\.", r"\1.1."),
    (r"^(\w+_proj)\.out\.", r"\1.3."),
]
_SPLIT: list[tuple[str, str, tuple[str, ...]]] = [
    (r"\.(?:self_)?attention\.qkv\.", ".attention.self.{}.", ("query", "key", "value")),
    (r"\.cross_attention\.kv\.", ".crossattention.self.{}.", ("key", "value")),
    (r"\.cross_attention\.q\.", ".crossattention.self.{}.", ("query",)),
]


def published_names(name: str) -> list[str]:
    """Return the released names whose tensors, joined along the first axis, make up our parameter `name`."""
    is_vision = name.startswith("vision_encoder.")
    for pattern, replacement in _PREFIXES:
        name = re.sub(f"^{pattern}", replacement, name)
    if is_vision:
        return [name]
    for pattern, replacement, parts in _SPLIT:
        if re.search(pattern, name):
            return [re.sub(pattern, replacement.format(part), name) for part in parts]
    for pattern, replacement in _LAYER_PARTS:
        name = re.sub(pattern, replacement, name)
    return [name]


def from_published(
    parameters: Mapping[str, torch.Size], state: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """Translate a released state into ours.

    Args:
        parameters: Name and shape of each of our parameters.
        state: Released tensors by name.

    Returns:
        Our tensors; our parameters that the state lacks; released names that nothing of ours reads, the parts that are
        known to be unused (`UNUSED`) left out.

    Raises:
        ValueError: If a tensor does not have the number of entries of its parameter.
    """
    found, missing, read = translated(parameters, state, published_names)
    unexpected = [name for name in state if name not in read and not UNUSED.match(name)]
    return found, missing, unexpected


def translated(
    parameters: Mapping[str, torch.Size], state: Mapping[str, Tensor], names: Callable[[str], list[str]]
) -> tuple[dict[str, Tensor], list[str], set[str]]:
    """Translate a state into ours.

    Args:
        parameters: Name and shape of each of our parameters.
        state: Tensors by name.
        names: The tensors that make up a parameter, joined along the first axis; none where the state has no such.

    Returns:
        Our tensors; our parameters that the state lacks; the names that were read.

    Raises:
        ValueError: If a tensor does not have the number of entries of its parameter.
    """
    found: dict[str, Tensor] = {}
    missing: list[str] = []
    read: set[str] = set()
    for name, shape in parameters.items():
        sources = names(name)
        if not sources or not all(source in state for source in sources):
            missing.append(name)
            continue
        read.update(sources)
        rows = _rows(shape, len(sources))
        for source in sources:
            if state[source].numel() != math.prod(rows):
                raise ValueError(f"{source} has shape {tuple(state[source].shape)}; {name} wants {tuple(shape)}")
        value = torch.cat([state[source].reshape(rows) for source in sources])
        found[name] = value.reshape(shape)
    return found, missing, read


def _rows(shape: torch.Size, parts: int) -> tuple[int, ...]:
    return (shape[0] // parts, *shape[1:]) if parts > 1 else tuple(shape)


def to_published(
    state: Mapping[str, Tensor], shapes: Callable[[str, Tensor], Iterable[int]] | None = None
) -> dict[str, Tensor]:
    """Translate our state into the released names; `shapes` gives released shapes that differ from ours."""
    result = {}
    for name, value in state.items():
        names = published_names(name)
        for part, tensor in zip(names, value.chunk(len(names)), strict=True):
            result[part] = tensor.reshape(tuple(shapes(part, tensor))) if shapes else tensor
    return result
