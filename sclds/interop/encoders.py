"""Two encoders of others as the start of a model whose fusion is drawn by seed.

Vision: CLIP, SigLIP 2 and Perception Encoder of Hugging Face or open_clip; text: RoBERTa and XLM-RoBERTa of Hugging
Face. The last block of CLIP is dropped (docs/method.md §2). The position table keeps its native grid: the model
interpolates it to the resolution of a run, so that nothing is rounded twice.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sclds.config.errors import CheckpointError, UserError
from sclds.interop.folder import ModelFolder, Origin, completed, parameter_shapes
from sclds.interop.hugging_face_encoders import TextWeights, load_text, load_vision, text_weights, vision_weights
from sclds.interop.open_clip import is_open_clip, load_open_clip
from sclds.interop.preprocessing import of_encoders
from sclds.interop.released import with_overrides
from sclds.interop.vision_weights import VisionWeights
from sclds.model.vision import VISION_TOWERS
from sclds.reference.published_names import published_names, translated
from sclds.run.foreign import damage

_VISION, _TEXT = "vision_encoder.", "text_encoder."
_OURS = {f"{_VISION}embedding.temporal_embedding", f"{_VISION}embedding.mask_token"}
"""Parameters of vision towers that no image encoder has."""


def from_encoders(vision: str, text: str, overrides: list[str], seed: int = 0) -> ModelFolder:
    """Return a model that starts from two encoders.

    Args:
        vision: Hub name or folder of Hugging Face, folder of open_clip, or file of Perception Encoder.
        text: Hub name or folder of RoBERTa or XLM-RoBERTa.
        overrides: `key=value` of the `model` section: fusion, projection, frames.
        seed: Keys the draw of fusion, heads and projections.

    Raises:
        UserError: If an encoder cannot be loaded, or computes other than ours do.
        CheckpointError: If its weights are incomplete.
    """
    path = Path(vision)
    if problem := damage(path) or damage(Path(text)):
        raise CheckpointError(problem)
    found = load_open_clip(path) if is_open_clip(path) and not (path / "config.json").is_file() else load_vision(vision)
    return from_weights(found, load_text(text), overrides, seed)


def from_models(vision: Any, text: Any, overrides: list[str], seed: int = 0) -> ModelFolder:
    """Return a model that starts from two models of transformers, see `from_encoders`."""
    return from_weights(vision_weights(vision), text_weights(text), overrides, seed)


def from_weights(vision: VisionWeights, text: TextWeights, overrides: list[str], seed: int = 0) -> ModelFolder:
    """Return a model that starts from the weights of two encoders, see `from_encoders`."""
    dropped = VISION_TOWERS[vision.section["type"]].dropped_blocks
    layers = vision.section["layers"] - dropped
    if layers < 1:
        raise UserError(f"{vision.description} has no block left after the last {dropped} is dropped")
    tree = {"vision": vision.section | {"layers": layers}, "text": text.section, "fusion": {}}
    config = with_overrides(tree, overrides)
    shapes = parameter_shapes(config)
    found = _vision(vision, shapes) | _text(text, shapes)
    drawn = [name for name in shapes if name not in found]
    left = [f"block {layers + i} of the vision encoder" for i in range(dropped)]
    left += [f"vision {name}" for name in vision.state if re.fullmatch(vision.unused, name)]
    left += [f"text {name}" for name in text.state if name.startswith("pooler.")]
    weights = {name: tensor.float() for name, tensor in found.items()}
    origin = Origin(f"{vision.description} and {text.description}", seed, drawn, dropped=left)
    preprocessing = of_encoders(config, vision.pixels, text.place or config.text.type)
    return ModelFolder(config, completed(config, weights, drawn, seed), origin, preprocessing=preprocessing)


def _vision(weights: VisionWeights, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Return the vision encoder's parameters; refuse what is missing, left over or of another shape."""
    ours = {name: shape for name, shape in shapes.items() if name.startswith(_VISION)}
    blocks = sum(name.endswith("norm_1.weight") for name in ours)
    found, read = _translated(
        ours, weights.state, lambda name: weights.names_of(name.removeprefix(_VISION)), weights.description
    )

    def expected(name: str) -> bool:
        block = re.match(weights.blocks, name)
        return bool(re.fullmatch(weights.unused, name)) or (block is not None and int(block[1]) >= blocks)

    unknown = sorted(name for name in weights.state if name not in read and not expected(name))
    if unknown:
        raise CheckpointError(
            f"{weights.description} has parts that this tower lacks: {', '.join(unknown[:5])}; it is another model"
        )
    return found


def _text(weights: TextWeights, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Return the text encoder's parameters, whose names differ from the released ones by a prefix."""
    ours = {name: shape for name, shape in shapes.items() if name.startswith(_TEXT)}

    def names(name: str) -> list[str]:
        return [part.removeprefix("text_transformer.") for part in published_names(name)]

    return _translated(ours, weights.state, names, weights.description)[0]


def _translated(
    shapes: Mapping[str, torch.Size], state: Mapping[str, Tensor], names: Any, description: str
) -> tuple[dict[str, Tensor], set[str]]:
    try:
        found, missing, read = translated(shapes, state, names)
    except (ValueError, RuntimeError) as fault:
        raise CheckpointError(f"The encoders do not fit the architecture: {description}: {fault}") from fault
    lacking = sorted(set(missing) - _OURS)
    if lacking:
        raise CheckpointError(
            f"{description} lacks the weights of {', '.join(lacking[:5])}"
            f"{f' and {len(lacking) - 5} more' if len(lacking) > 5 else ''}; it is partial or another model"
        )
    return found, read
