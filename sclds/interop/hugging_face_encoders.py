"""Encoders of Hugging Face's transformers: which of its models are taken, and what they compute.

CLIP, SigLIP (1 and 2, of fixed and of native aspect) for vision; RoBERTa and XLM-RoBERTa for text.
"""

from dataclasses import dataclass
from typing import Any

from sclds.config.errors import UserError
from sclds.interop.vision_weights import (
    HUGGING_FACE_CLIP,
    HUGGING_FACE_LAYERS,
    HUGGING_FACE_SIGLIP,
    VisionWeights,
    channels_first,
    split_queries,
)

VISION_MODELS = {
    "clip": "CLIPVisionModel",
    "clip_vision_model": "CLIPVisionModel",
    "siglip": "SiglipVisionModel",
    "siglip_vision_model": "SiglipVisionModel",
    "siglip2": "Siglip2VisionModel",
    "siglip2_vision_model": "Siglip2VisionModel",
}
"""Class by the `model_type` of a configuration."""
TEXT_MODELS = {"roberta": "RobertaModel", "xlm-roberta": "XLMRobertaModel"}
TEXT_TYPES = {"roberta": "roberta", "xlm-roberta": "xlm_roberta"}
"""`model.text.type` by `model_type`."""
_ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}


@dataclass(frozen=True)
class TextWeights:
    """The text encoder of somebody's model."""

    description: str
    section: dict[str, Any]
    """The `model.text` section that fits."""
    state: dict[str, Any]


def vision_weights(model: Any, place: str = "") -> VisionWeights:
    """Return the weights of a `CLIPVisionModel`, `SiglipVisionModel` or `Siglip2VisionModel`.

    Raises:
        UserError: With a sentence for everything in which it computes other than our tower.
    """
    config, description = model.config, f"the {type(model).__name__}{place}"
    siglip = type(model).__name__.startswith("Siglip")
    problems = _problems(config, description)
    if siglip and not getattr(config, "vision_use_head", True):
        problems.append(f"{description} has no attention pooling (vision_use_head), which makes the frame [CLS]")
    if problems:
        raise UserError(f"This vision encoder cannot be taken: {'; '.join(problems)}")
    state = {name.removeprefix("vision_model."): tensor for name, tensor in model.state_dict().items()}
    size = getattr(config, "image_size", None) or round(config.num_patches**0.5) * config.patch_size
    section = {
        "type": "siglip2" if siglip else "clip",
        "width": config.hidden_size,
        "layers": config.num_hidden_layers,
        "heads": config.num_attention_heads,
        "mlp_width": 0 if config.intermediate_size == 4 * config.hidden_size else config.intermediate_size,
        "activation": _ACTIVATIONS[config.hidden_act],
        "patch_size": config.patch_size,
        "pretrained_image_size": size,
        "layer_norm_eps": config.layer_norm_eps,
    }
    if not siglip:
        unused = r"embeddings\.position_ids"
        return VisionWeights(description, section, state, HUGGING_FACE_CLIP, unused, HUGGING_FACE_LAYERS)
    patches = "embeddings.patch_embedding.weight"
    if state[patches].ndim == 2:
        state[patches] = channels_first(state[patches], config.patch_size)
    state, unused = split_queries(state, "head.attention"), r"embeddings\.position_ids"
    return VisionWeights(description, section, state, HUGGING_FACE_SIGLIP, unused, HUGGING_FACE_LAYERS)


def text_weights(model: Any, place: str = "") -> TextWeights:
    """Return the weights of a `RobertaModel` or `XLMRobertaModel`.

    Raises:
        UserError: With a sentence for everything in which it computes other than our tower.
    """
    config, description = model.config, f"the {type(model).__name__}{place}"
    problems = []
    if config.hidden_act != "gelu":
        problems.append(f"its activation is {config.hidden_act}, expected gelu")
    if config.pad_token_id != 1:
        problems.append(f"its pad_token_id is {config.pad_token_id}, expected 1")
    if config.intermediate_size != 4 * config.hidden_size:
        problems.append("its intermediate_size is not 4 × its hidden_size")
    if problems:
        raise UserError(f"{description} cannot be taken: {'; '.join(problems)}")
    section = {
        "type": TEXT_TYPES[config.model_type],
        "width": config.hidden_size,
        "layers": config.num_hidden_layers,
        "heads": config.num_attention_heads,
        "vocab_size": config.vocab_size,
        "max_positions": config.max_position_embeddings,
        "layer_norm_eps": config.layer_norm_eps,
    }
    return TextWeights(description, section, model.state_dict())


def load_vision(name: str) -> VisionWeights:
    """Load a vision encoder by hub name or folder.

    Raises:
        UserError: There is none, of another kind, or it lacks weights.
    """
    return vision_weights(_load(name, VISION_MODELS, "vision"), f" of {name!r}")


def load_text(name: str) -> TextWeights:
    """Load a text encoder by hub name or folder.

    Raises:
        UserError: There is none, of another kind, or it lacks weights.
    """
    return text_weights(_load(name, TEXT_MODELS, "text"), f" of {name!r}")


def _problems(config: Any, description: str) -> list[str]:
    problems = []
    if config.hidden_act not in _ACTIVATIONS:
        problems.append(f"the activation of {description} is {config.hidden_act}, expected {' or '.join(_ACTIVATIONS)}")
    for key in ("image_size", "patch_size"):
        if not isinstance(getattr(config, key, 1), int):
            problems.append(f"{key} of {description} is {getattr(config, key)}, expected one number: squares")
    return problems


def _load(name: str, kinds: dict[str, str], role: str) -> Any:
    """Load the model whose class the configuration names."""
    import transformers

    try:
        model_type = transformers.AutoConfig.from_pretrained(name).model_type
    except (OSError, ValueError, KeyError) as fault:
        raise UserError(
            f"{name!r} holds no {role} encoder that can be read ({_reason(fault)}): give a name or folder of one of "
            f"{', '.join(kinds)}" + (", or a folder of open_clip (open_clip_config.json)" if role == "vision" else "")
        ) from fault
    if model_type not in kinds:
        raise UserError(f"{name!r} is a {model_type} model; as {role} encoder give one of {', '.join(kinds)}")
    kind = getattr(transformers, kinds[model_type])
    try:
        # safetensors, or a pickle that transformers itself opens with weights_only
        model, told = kind.from_pretrained(name, output_loading_info=True)
    except (OSError, ValueError, KeyError, RuntimeError) as fault:
        raise UserError(
            f"{name!r} cannot be loaded as {kind.__name__} ({_reason(fault)}): check the name or folder"
        ) from fault
    lacking = [n for n in told.get("missing_keys", ()) if not n.startswith("pooler.") and "position_ids" not in n]
    if lacking:
        raise UserError(
            f"{name!r} lacks {', '.join(sorted(lacking)[:5])}, so it is no complete {kind.__name__}; get it again"
        )
    return model


def _reason(fault: Exception) -> str:
    return str(fault).strip().splitlines()[0] if str(fault).strip() else type(fault).__name__
