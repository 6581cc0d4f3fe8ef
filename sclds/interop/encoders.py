"""CLIP's vision encoder and RoBERTa, as Hugging Face has them, as the start of a model whose fusion is drawn by seed.

The last block of CLIP is dropped (docs/method.md §2). The position table keeps its native grid: the model interpolates
it to the resolution of a run, so that nothing is rounded twice.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sclds.config.errors import CheckpointError, UserError
from sclds.interop.folder import ModelFolder, Origin, completed, parameter_shapes
from sclds.interop.released import with_overrides
from sclds.reference.published_names import from_published

DROPPED_BLOCKS = 1
"""Blocks at the end of CLIP's vision encoder that the method leaves out."""
_VISION, _TEXT = "vision_transformer.visual.", "text_transformer."
_CLIP_NAMES = [
    (r"embeddings\.class_embedding$", "class_embedding"),
    (r"embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"embeddings\.patch_embedding\.weight$", "conv1.weight"),
    (r"pre_layrnorm\.", "ln_pre."),
    (r"post_layernorm\.", "ln_post."),
    (r"encoder\.layers\.(\d+)\.layer_norm(\d)\.", r"transformer.resblocks.\1.ln_\2."),
    (r"encoder\.layers\.(\d+)\.self_attn\.out_proj\.", r"transformer.resblocks.\1.attn.out_proj."),
    (r"encoder\.layers\.(\d+)\.mlp\.fc1\.", r"transformer.resblocks.\1.mlp.c_fc."),
    (r"encoder\.layers\.(\d+)\.mlp\.fc2\.", r"transformer.resblocks.\1.mlp.c_proj."),
]


def from_hugging_face(vision: str, text: str, overrides: list[str], seed: int = 0) -> ModelFolder:
    """Return a model that starts from two encoders.

    Args:
        vision: Hub name or folder of a CLIP model.
        text: Hub name or folder of a RoBERTa model.
        overrides: `key=value` of the `model` section: fusion, projection, frames.
        seed: Keys the draw of fusion, heads and projections.

    Raises:
        UserError: If a model cannot be loaded, or computes other than the method does.
    """
    from transformers import CLIPVisionModel, RobertaModel

    return from_models(_load(CLIPVisionModel, vision), _load(RobertaModel, text), overrides, seed)


def from_models(vision: Any, text: Any, overrides: list[str], seed: int = 0) -> ModelFolder:
    """Return a model that starts from a `CLIPVisionModel` and a `RobertaModel`, see `from_hugging_face`."""
    config = with_overrides(_architecture(vision.config, text.config), overrides)
    state = clip_state(vision.state_dict(), config.vision.layers)
    state |= {f"{_TEXT}{name}": tensor for name, tensor in text.state_dict().items()}
    shapes = {
        name: shape
        for name, shape in parameter_shapes(config).items()
        if name.startswith(("vision_encoder.", "text_encoder."))
    }
    try:
        found, missing, _ = from_published(shapes, state)
    except (ValueError, RuntimeError) as fault:
        raise CheckpointError(f"The encoders do not fit the architecture: {fault}") from fault
    ours = {"vision_encoder.embedding.temporal_embedding", "vision_encoder.embedding.mask_token"}
    if set(missing) - ours:
        raise CheckpointError(f"The encoders lack {', '.join(sorted(set(missing) - ours))}; take others")
    drawn = [name for name in parameter_shapes(config) if name not in found]
    dropped = [f"block {config.vision.layers + i} of the vision encoder" for i in range(DROPPED_BLOCKS)]
    dropped += [f"text {name}" for name in text.state_dict() if name.startswith("pooler.")]
    weights = {name: tensor.float() for name, tensor in found.items()}
    return ModelFolder(
        config, completed(config, weights, drawn, seed), Origin("encoders", seed, drawn, dropped=dropped)
    )


def clip_state(state: Mapping[str, Tensor], blocks: int) -> dict[str, Tensor]:
    """Return the first `blocks` blocks and the rest of a `CLIPVisionModel` under the released names."""
    state = {name.removeprefix("vision_model."): tensor for name, tensor in state.items()}
    result = {}
    for name, tensor in state.items():
        for pattern, replacement in _CLIP_NAMES:
            renamed, count = re.subn(f"^{pattern}", replacement, name)
            if count:
                result[f"{_VISION}{renamed}"] = tensor
    for block in range(blocks):
        for kind in ("weight", "bias"):
            parts = [f"encoder.layers.{block}.self_attn.{part}_proj.{kind}" for part in "qkv"]
            if all(part in state for part in parts):
                joined = torch.cat([state[part] for part in parts])
                result[f"{_VISION}transformer.resblocks.{block}.attn.in_proj_{kind}"] = joined
    return result


def _architecture(vision: Any, text: Any) -> dict[str, Any]:
    """Return the `model` section of two Hugging Face configurations.

    Raises:
        UserError: With a sentence for everything in which they compute other than the method.
    """
    problems = []
    if vision.hidden_act != "quick_gelu":
        problems.append(f"the vision encoder's activation is {vision.hidden_act}; the method has quick_gelu")
    if text.hidden_act != "gelu":
        problems.append(f"the text encoder's activation is {text.hidden_act}; the method has gelu")
    if text.pad_token_id != 1:
        problems.append(f"the text encoder's pad_token_id is {text.pad_token_id}; RoBERTa's is 1")
    for name, encoder in (("vision", vision), ("text", text)):
        if encoder.intermediate_size != 4 * encoder.hidden_size:
            problems.append(f"the {name} encoder's intermediate_size is not 4 × its hidden_size")
    if vision.num_hidden_layers <= DROPPED_BLOCKS:
        problems.append("the vision encoder has no block left after the last one is dropped")
    if problems:
        raise UserError(f"These encoders cannot be taken: {'; '.join(problems)}")
    return {
        "vision": {
            "width": vision.hidden_size,
            "layers": vision.num_hidden_layers - DROPPED_BLOCKS,
            "heads": vision.num_attention_heads,
            "patch_size": vision.patch_size,
            "pretrained_image_size": vision.image_size,
            "layer_norm_eps": vision.layer_norm_eps,
        },
        "text": {
            "width": text.hidden_size,
            "layers": text.num_hidden_layers,
            "heads": text.num_attention_heads,
            "vocab_size": text.vocab_size,
            "max_positions": text.max_position_embeddings,
            "layer_norm_eps": text.layer_norm_eps,
        },
        "fusion": {},
    }


def _load(kind: Any, name: str) -> Any:
    try:
        # safetensors, or a pickle that transformers itself opens with weights_only
        model, told = kind.from_pretrained(name, output_loading_info=True)
    except (OSError, ValueError, KeyError, RuntimeError) as fault:
        reason = str(fault).strip().splitlines()[0] if str(fault).strip() else type(fault).__name__
        raise UserError(f"{name!r} cannot be loaded as {kind.__name__} ({reason}): check the name or folder") from fault
    lacking = [n for n in told.get("missing_keys", ()) if not n.startswith("pooler.") and "position_ids" not in n]
    if lacking:
        raise UserError(f"{name!r} lacks {', '.join(sorted(lacking)[:5])}, so it is no {kind.__name__}")
    return model
