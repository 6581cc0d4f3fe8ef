"""Every LayerNorm has the epsilon of docs/method.md §2: 1e-12 in fusion and the MLM head, 1e-5 elsewhere."""

import torch
from torch import nn

from sclds.config import FusionConfig, ModelConfig, TextConfig, VisionConfig
from sclds.model.scl import SCLModel

FUSED = ("cross_modal_text_layers", "cross_modal_image_layers", "mlm_score")
TOWERS = ("vision_encoder", "text_encoder", "text_projection", "vision_projection")


def test_the_defaults_are_those_of_the_method():
    assert (VisionConfig().layer_norm_eps, TextConfig().layer_norm_eps) == (1e-5, 1e-5)
    assert FusionConfig().layer_norm_eps == 1e-12


def epsilons(config):
    """Return the epsilons of every part of the model that has one, by the part's name."""
    with torch.device("meta"):
        model = SCLModel(config, 10)
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm) or isinstance(getattr(module, "eps", None), float):
            found.setdefault(name.split(".")[0], set()).add(module.eps)
    return found


def test_every_norm_has_that_of_its_part():
    assert epsilons(ModelConfig()) == {name: {1e-12} for name in FUSED} | {name: {1e-5} for name in TOWERS}


def test_a_part_follows_its_own_setting():
    found = epsilons(
        ModelConfig(
            vision=VisionConfig(layer_norm_eps=1e-3),
            text=TextConfig(layer_norm_eps=1e-4),
            fusion=FusionConfig(layer_norm_eps=1e-2),
        )
    )
    assert found == {name: {1e-2} for name in FUSED} | {
        "vision_encoder": {1e-3},
        "vision_projection": {1e-3},
        "text_encoder": {1e-4},
        "text_projection": {1e-4},
    }
