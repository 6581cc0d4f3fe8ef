"""Vision encoders of open_clip: a folder with `open_clip_config.json` and weights, or Perception Encoder's own file.

Taken are its own vision transformer (CLIP of any size), and two of timm's: SigLIP and Perception Encoder. What a
configuration has beyond them is refused with its name.
"""

import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sclds.config.errors import CheckpointError, UserError
from sclds.interop.vision_weights import OPEN_CLIP, OPEN_CLIP_BLOCKS, TIMM, VisionWeights

CONFIG = "open_clip_config.json"
WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)
FILES = (".pt", ".pth", ".bin", ".safetensors")
"""What a file of Perception Encoder's own may be called."""
HEAD_WIDTH = 64
"""Channels of an attention head, where neither configuration nor tensors tell them."""
_TIMM_HEAD_WIDTHS = {"so400m": 72, "giantopt": 96}
_REFUSED = {
    "attentional_pool": False,
    "no_ln_pre": False,
    "pos_embed_type": "learnable",
    "ls_init_value": None,
    "block_type": None,
    "qk_norm": False,
    "scaled_cosine_attn": False,
    "scale_heads": False,
    "scale_attn_inner": False,
    "scale_attn": False,
    "scale_fc": False,
}
"""Settings of open_clip's own transformer that would make it compute something else, and their only value here."""


def is_open_clip(path: Path) -> bool:
    """Return whether a path is a folder of open_clip, or a file of weights."""
    return (path / CONFIG).is_file() or (path.is_file() and path.suffix in FILES)


def load_open_clip(path: Path) -> VisionWeights:
    """Read the vision encoder of a folder of open_clip, or of a file of Perception Encoder's.

    Raises:
        UserError: The encoder is of another kind.
        CheckpointError: A file is missing or cannot be read.
    """
    if path.is_file():
        return _perception_encoder(_within(_read_tensors(path), "visual."), path)
    try:
        content = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        model = content.get("model_cfg", content)
        vision = dict(model["vision_cfg"])
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as fault:
        raise CheckpointError(f"{path / CONFIG} has no model_cfg.vision_cfg that can be read ({fault})") from fault
    file = next((path / name for name in WEIGHTS if (path / name).is_file()), None)
    if file is None:
        raise CheckpointError(f"{path} has {CONFIG} and no weights beside it; expected one of {', '.join(WEIGHTS)}")
    state = _within(_read_tensors(file), "visual.")
    if vision.get("timm_model_name"):
        return _timm(_within(state, "trunk."), str(vision["timm_model_name"]), path)
    return _transformer(state, vision, bool(model.get("quick_gelu", False)), path)


def _transformer(state: Mapping[str, Tensor], vision: dict[str, Any], quick_gelu: bool, path: Path) -> VisionWeights:
    """Return open_clip's own vision transformer."""
    if not isinstance(vision.get("layers", 12), int):
        raise UserError(f"{path} holds a convolutional vision encoder; expected a vision transformer")
    problems = [key for key, value in _REFUSED.items() if vision.get(key, value) != value]
    if problems:
        settings = ", ".join(f"{key}={vision[key]}" for key in problems)
        raise UserError(f"The vision encoder of {path} computes something else than CLIP's: {settings}")
    width, tanh = vision.get("width", 768), (vision.get("act_kwargs") or {}).get("approximate") == "tanh"
    inner = int(width * vision.get("mlp_ratio", 4.0))
    section = {
        "type": "clip",
        "width": width,
        "layers": vision.get("layers", 12),
        "heads": width // vision.get("head_width", 64),
        "mlp_width": 0 if inner == 4 * width else inner,
        "activation": "quick_gelu" if quick_gelu else "gelu_tanh" if tanh else "gelu",
        "patch_size": vision.get("patch_size", 16),
        "pretrained_image_size": _side(vision.get("image_size", 224), path),
        "layer_norm_eps": (vision.get("norm_kwargs") or {}).get("eps", 1e-5),
    }
    return VisionWeights(f"open_clip's CLIP of {path}", section, state, OPEN_CLIP, r"proj", OPEN_CLIP_BLOCKS)


def _timm(state: Mapping[str, Tensor], name: str, path: Path) -> VisionWeights:
    """Return a vision transformer of timm inside open_clip."""
    if "vit_pe_core" in name:
        return _perception_encoder(state, path)
    if "siglip" not in name or "gap" in name:
        raise UserError(
            f"The vision encoder of {path} is timm's {name}; expected a SigLIP with attention pooling, or PE core"
        )
    head = next((width for size, width in _TIMM_HEAD_WIDTHS.items() if size in name), HEAD_WIDTH)
    try:
        width, _, patch, _ = state["patch_embed.proj.weight"].shape
        grid = round(state["pos_embed"].shape[1] ** 0.5)
        inner = state["blocks.0.mlp.fc1.weight"].shape[0]
    except (KeyError, ValueError) as fault:
        raise CheckpointError(f"{path} names {name} and lacks its weights: {fault}; get them again") from fault
    section = {
        "type": "siglip2",
        "width": width,
        "layers": _count(state, r"blocks\.(\d+)\."),
        "heads": max(1, width // head),
        "mlp_width": 0 if inner == 4 * width else inner,
        "patch_size": patch,
        "pretrained_image_size": grid * patch,
        "layer_norm_eps": 1e-6,
    }
    return VisionWeights(f"timm's {name} of {path}", section, state, TIMM)


def _perception_encoder(state: Mapping[str, Tensor], path: Path) -> VisionWeights:
    """Return PE core, under timm's names or its own, which are those of open_clip."""
    timm = "patch_embed.proj.weight" in state
    patches, positions = ("patch_embed.proj.weight", "pos_embed") if timm else ("conv1.weight", "positional_embedding")
    if patches not in state or positions not in state or not any(n.startswith("attn_pool.") for n in state):
        raise CheckpointError(
            f"{path} holds no Perception Encoder: {patches}, {positions} or its attention pooling is missing; other "
            f"models need their folder with {CONFIG} or of Hugging Face"
        )
    if ("cls_token" if timm else "class_embedding") not in state:
        raise UserError(
            f"The Perception Encoder of {path} has no [CLS] token (PE core G has none), which SCL reads; take B or L"
        )
    width, _, patch, _ = state[patches].shape
    blocks = r"blocks\.(\d+)\." if timm else OPEN_CLIP_BLOCKS
    section = {
        "type": "perception_encoder",
        "width": width,
        "layers": _count(state, blocks),
        "heads": max(1, width // HEAD_WIDTH),
        "patch_size": patch,
        "pretrained_image_size": round((state[positions].shape[-2] - 1) ** 0.5) * patch,
    }
    unused = r"attn_pool\..*|head\..*|proj"
    return VisionWeights(f"the PE core of {path}", section, state, TIMM if timm else OPEN_CLIP, unused, blocks)


def _read_tensors(file: Path) -> dict[str, Tensor]:
    """Read a file of tensors without running code that it may carry."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as fault:
        reason = str(fault).strip().splitlines()[0] if str(fault).strip() else type(fault).__name__
        raise CheckpointError(f"{file} cannot be read as tensors ({reason}); get it again") from fault
    for wrapping in ("state_dict", "weights"):
        content = content.get(wrapping, content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{file} holds no dictionary of tensors")
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def _within(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors under a prefix, without it; all where none has it."""
    inside = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    return inside or dict(state)


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return 1 + max((int(found[1]) for name in state if (found := re.match(pattern, name))), default=-1)


def _side(size: Any, path: Path) -> int:
    sides = set(size) if isinstance(size, list | tuple) else {size}
    if len(sides) != 1:
        raise UserError(f"The image_size of {path} is {size}, expected a square")
    return int(sides.pop())
