"""Vision towers by `model.vision.type`. A new one is a file here, a row below, a schema name, its weights' names."""

from collections.abc import Mapping
from types import MappingProxyType

from sclds.config import VisionConfig
from sclds.model.vision.block import VisionBlock, interpolate_positions
from sclds.model.vision.clip import CLIPEncoder
from sclds.model.vision.perception_encoder import PerceptionEncoder
from sclds.model.vision.siglip2 import SigLIP2Encoder
from sclds.model.vision.tower import VisionTower

__all__ = ["VISION_TOWERS", "VisionBlock", "VisionTower", "build_vision_tower", "interpolate_positions"]

VISION_TOWERS: Mapping[str, type[VisionTower]] = MappingProxyType(
    {"clip": CLIPEncoder, "siglip2": SigLIP2Encoder, "perception_encoder": PerceptionEncoder}
)
"""By `model.vision.type`."""


def build_vision_tower(config: VisionConfig, recompute: bool) -> VisionTower:
    """Return the tower of a configuration.

    Args:
        config: Type and sizes.
        recompute: Activation checkpointing.
    """
    return VISION_TOWERS[config.type](config, recompute)
