"""Released SCL and GLSCL checkpoints into ours and back, bit by bit; METER's, of the same architecture, into ours.

METER (arXiv 2111.02387) with a CLIP vision encoder and RoBERTa has the names of SCL but for the vision encoder's
prefix, parts of CLIP's text tower that nothing reads, and no contrastive projections, which are drawn by seed.
"""

import pickle
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sclds.config import ModelConfig
from sclds.config.errors import CheckpointError, ConfigError, UserError
from sclds.config.reading import override_section
from sclds.interop.folder import ModelFolder, Origin, completed, parameter_shapes
from sclds.interop.preprocessing import CLIP_NORMALIZATION, of_encoders
from sclds.reference.published_names import UNUSED, from_published, published_names, to_published
from sclds.run.foreign import refuse_foreign

RELEASED_TOKENIZER = "roberta-base"
WRAPPINGS = ("state_dict", "model")
"""Keys under which checkpoints keep their weights."""
ABSENT_BY_DESIGN = frozenset({"vision_encoder.embedding.temporal_embedding", "vision_encoder.embedding.mask_token"})
"""Released image models have no temporal embedding, and those without local completion no mask token."""
METER_LACKS = re.compile(r"(text|vision)_projection\.|temperature\.")
"""Parameters of ours that no METER checkpoint has: it has no contrastive objective."""
_METER_VISION, _METER_UNUSED = "vit_model.", re.compile(r"vit_model\.(token_embedding|positional_embedding|ln_final)")
LIGHTNING = ("pytorch_lightning.", "lightning.")
HEAD_WIDTH = 64
"""Channels of an attention head in every released model; the tensors do not tell."""
_VISION = "vision_transformer.visual."
_TEXT = "text_transformer."


def read_released(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a released checkpoint without running code that it may carry.

    Raises:
        CheckpointError: If it cannot be read so, or holds no named tensors.
    """
    refuse_foreign(path, "a released checkpoint", allowed="sclds convert released")
    try:
        with torch.serialization.safe_globals(_stand_ins(path)):
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as fault:
        raise CheckpointError(
            f"{path} is damaged, or holds more than tensors and plain values, which is not opened, since a pickle can "
            f"run code ({str(fault).splitlines()[0]}); save its state_dict alone"
        ) from fault
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as fault:
        raise CheckpointError(f"{path} cannot be read as a torch file ({str(fault).splitlines()[0]})") from fault
    for wrapping in WRAPPINGS:
        if isinstance(content, dict) and isinstance(content.get(wrapping), dict):
            content = content[wrapping]
            break
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(f"{path} holds no dictionary of tensors, plain or under {' or '.join(WRAPPINGS)}")
    return {str(name): tensor for name, tensor in content.items()}


def _stand_ins(path: Path) -> list[Any]:
    """Return empty classes under the names of Lightning's that a checkpoint of it lists beside its weights.

    METER's files name their callbacks by class; with a class that does nothing in its place, none of its code is run.
    """
    try:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError):
        return []  # loading says what is wrong
    return [(type(name.rpartition(".")[2], (), {}), name) for name in named if name.startswith(LIGHTNING)]


def is_meter(state: Mapping[str, Tensor]) -> bool:
    """Return whether a state is METER's, with a vision transformer."""
    return any(name.startswith(f"{_METER_VISION}visual.") for name in state)


def architecture_of(state: Mapping[str, Tensor], overrides: list[str]) -> ModelConfig:
    """Return the sizes that released tensors have; `overrides` (`text.heads=4`) give what they do not tell.

    Raises:
        UserError: If a tensor that tells a size is missing, or an override is wrong.
    """
    state = _renamed(state)
    if state.get(f"{_TEXT}embeddings.token_type_embeddings.weight", torch.empty(1, 0)).shape[0] > 1:
        raise CheckpointError(
            "The text encoder of this checkpoint is BERT's (it has token types), expected RoBERTa's: there is no place "
            "for its weights here"
        )
    try:
        vision_width, _, patch, _ = state[f"{_VISION}conv1.weight"].shape
        positions = state[f"{_VISION}positional_embedding"].shape[0]
        vocabulary, text_width = state[f"{_TEXT}embeddings.word_embeddings.weight"].shape
        text_positions = state[f"{_TEXT}embeddings.position_embeddings.weight"].shape[0]
        fusion_inner, fusion_width = state["cross_modal_text_layers.0.intermediate.dense.weight"].shape
        token_types = state["token_type_embeddings.weight"].shape[0]
        projected = state.get("vision_proj.3.weight")
        projection = ModelConfig.model_fields["projection"].default if projected is None else projected.shape[0]
    except (KeyError, ValueError) as fault:
        raise CheckpointError(f"This is no released SCL checkpoint: {fault} is missing or has another shape") from fault
    vision: dict[str, Any] = {
        "width": vision_width,
        "layers": _count(state, rf"{re.escape(_VISION)}transformer\.resblocks\.(\d+)\."),
        "heads": max(1, vision_width // HEAD_WIDTH),
        "patch_size": patch,
        "pretrained_image_size": round((positions - 1) ** 0.5) * patch,
    }
    temporal = state.get(f"{_VISION}temporal_embed")
    if temporal is not None:
        vision["max_frames"] = temporal.shape[-2]
    tree = {
        "vision": vision,
        "text": {
            "width": text_width,
            "layers": _count(state, rf"{re.escape(_TEXT)}encoder\.layer\.(\d+)\."),
            "heads": max(1, text_width // HEAD_WIDTH),
            "vocab_size": vocabulary,
            "max_positions": text_positions,
        },
        "fusion": {
            "width": fusion_width,
            "layers": _count(state, r"cross_modal_text_layers\.(\d+)\."),
            "heads": max(1, fusion_width // HEAD_WIDTH),
            "mlp_ratio": fusion_inner // fusion_width,
            "token_types": token_types,
        },
        "projection": projection,
    }
    return with_overrides(tree, overrides)


def with_overrides(tree: dict[str, Any], overrides: list[str]) -> ModelConfig:
    """Return the architecture of `tree` with `key=value` pairs of the `model` section over it.

    Raises:
        UserError: If a pair is malformed, or names no setting.
    """
    try:
        return override_section(ModelConfig, tree, overrides)
    except ConfigError as fault:
        raise UserError(f"the architecture is not valid: {'; '.join(fault.problems)}; see --model") from fault


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """Return the number of layers whose names match."""
    return 1 + max((int(m[1]) for name in state if (m := re.match(pattern, name))), default=0)


def from_released(
    state: Mapping[str, Tensor], config: ModelConfig, allowed: Collection[str] = (), seed: int = 0
) -> ModelFolder:
    """Turn released tensors into ours.

    Args:
        state: Released tensors by name.
        config: Their architecture.
        allowed: Parameters of ours that may be missing, and released names that may be unknown.
        seed: Keys the draw of what is missing.

    Raises:
        CheckpointError: If names are missing or unknown that are not allowed, or shapes do not fit.
    """
    meter, dropped = is_meter(state), [name for name in state if _METER_UNUSED.match(name)]
    state = _renamed(state)
    try:
        found, missing, unexpected = from_published(parameter_shapes(config), state)
    except (ValueError, RuntimeError) as fault:
        raise CheckpointError(f"The checkpoint does not fit the architecture: {fault}") from fault
    refused = [n for n in missing if n not in ABSENT_BY_DESIGN and n not in allowed]
    refused = [n for n in refused if not (meter and METER_LACKS.match(n))]
    # What is left of a parameter of several released tensors cannot be read, and goes along unused.
    orphans = {part for name in missing for part in published_names(name) if part in state}
    unknown = [n for n in unexpected if n not in allowed and n not in orphans]
    if refused or unknown:
        raise CheckpointError(refusal(refused, unknown))
    kept = {name: tensor for name, tensor in state.items() if UNUSED.match(name) or name in unexpected}
    shapes = {} if meter else {name: list(tensor.shape) for name, tensor in state.items()}
    origin = Origin("METER" if meter else "released", seed, missing, shapes, dropped)
    preprocessing = of_encoders(config, CLIP_NORMALIZATION, RELEASED_TOKENIZER)
    return ModelFolder(config, completed(config, found, missing, seed), origin, kept, preprocessing)


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state of METER under the names of SCL, without what nothing reads; another as it is."""
    if not is_meter(state):
        return dict(state)
    return {
        re.sub(f"^{re.escape(_METER_VISION)}", "vision_transformer.", name): tensor
        for name, tensor in state.items()
        if not _METER_UNUSED.match(name)
    }


def refusal(missing: list[str], unknown: list[str]) -> str:
    """Return the sentence that lists what stands in the way."""
    lines = []
    if missing:
        lines.append(f"{len(missing)} parameters are missing: {', '.join(missing)}")
    if unknown:
        lines.append(f"{len(unknown)} names are unknown: {', '.join(unknown)}")
    return "; ".join(lines) + "; allow each with --allow NAME (what is missing is then drawn by seed)"


def to_released(folder: ModelFolder) -> dict[str, Tensor]:
    """Return the state under released names; one that came from there comes back whole, in its order and shapes."""
    if folder.config.vision.type != "clip":
        raise CheckpointError(
            f"released checkpoints have CLIP's vision encoder, and this folder has model.vision.type="
            f"{folder.config.vision.type}; convert it to a Hugging Face folder instead"
        )
    shapes = folder.origin.released_shapes
    if not shapes:
        return to_published(folder.weights, _default_shape)
    own = {name: tensor for name, tensor in folder.weights.items() if name not in folder.origin.initialized}
    state = to_published(own, lambda name, _: shapes[name]) | folder.unused
    lost = [name for name in shapes if name not in state]
    if lost:
        raise CheckpointError(f"the folder no longer holds {', '.join(lost)}; convert the released checkpoint again")
    return {name: state[name].contiguous() for name in shapes}


def _default_shape(name: str, tensor: Tensor) -> tuple[int, ...]:
    """Return the released shape of one of our tensors where no released checkpoint told it."""
    shape = tuple(tensor.shape)
    if name == "cl_temp":
        return ()
    if name.endswith("visual.visual_mask_token"):
        return (1, *shape)
    if name.endswith("visual.conv1.weight"):
        side = round((shape[1] // 3) ** 0.5)
        return (shape[0], 3, side, side)
    return shape
