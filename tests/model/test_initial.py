"""Initial weights are a function of name and seed, with the spread that the method gives."""

import torch

from sclds.config import FusionConfig, ModelConfig, TextConfig, VisionConfig
from sclds.model.scl import SCLModel


def _model(fusion_layers=1, seed=0):
    config = ModelConfig(
        vision=VisionConfig(width=64, layers=1, heads=1, patch_size=4, pretrained_image_size=16),
        text=TextConfig(width=64, layers=1, heads=1, max_positions=20),
        fusion=FusionConfig(width=64, layers=fusion_layers, heads=1),
        projection=32,
    )
    model = SCLModel(config, 100)
    model.initialize(seed)
    return model


def test_a_weight_depends_on_its_name_and_the_seed_alone():
    small, large = dict(_model(1).named_parameters()), dict(_model(3).named_parameters())
    torch.manual_seed(99)
    again, other = dict(_model(1).named_parameters()), dict(_model(1, seed=1).named_parameters())
    for name, value in small.items():
        assert torch.equal(value, large[name]), name
        assert torch.equal(value, again[name]), name
        drawn = value.std(correction=0) > 0
        assert not drawn or not torch.equal(value, other[name]), name


def test_two_weights_of_one_shape_differ():
    layer = _model().cross_modal_text_layers[0]
    assert not torch.equal(layer.self_attention.out.weight, layer.cross_attention.out.weight)


def test_spread_is_that_of_the_method():
    model = _model()
    fusion = model.cross_modal_image_layers[0]
    for weight in (fusion.self_attention.qkv.weight, fusion.mlp.up.weight, model.mlm_score.decoder.weight):
        assert abs(weight.std() / 0.02 - 1) < 0.05
    assert fusion.self_attention.qkv.bias.abs().max() == 0
    assert torch.equal(fusion.mlp_norm.norm.weight, torch.ones(64))
    assert torch.equal(model.text_projection.norm.weight, torch.ones(64))
    assert model.temperature().item() == torch.tensor(0.07).item()
    for part in (model.text_projection.dense, model.vision_projection.out):
        bound = 64**-0.5
        for tensor in (part.weight, part.bias):
            assert 0.8 * bound < tensor.abs().max() <= bound
