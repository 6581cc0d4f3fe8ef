"""Dropout acts wherever the method has it, in training only, and recomputation draws what the first run drew."""

import pytest
import torch

from tests.model.samples import assert_equal, model_of, pack_samples, packed, sample

VIEWS = [sample(0, partner=1), sample(1, "video", 2, inner=6, partner=0), sample(2, inner=7)]
PARTS = {"text": {"text_dropout": 0.4}, "fusion": {"fusion_dropout": 0.4}}


def outputs(model, seed):
    torch.manual_seed(seed)
    found = model(pack_samples(VIEWS))
    return {name: value.detach() for name, value in found.items()}


@pytest.mark.parametrize("part", PARTS)
def test_dropout_of_each_part_acts_in_training_alone(part):
    model, without = model_of(**PARTS[part]), model_of()
    wanted = outputs(without.train(), 0)
    for name, value in outputs(model.eval(), 0).items():
        assert torch.equal(value, wanted[name]), name
    model.train()
    first, again, other = outputs(model, 0), outputs(model, 0), outputs(model, 1)
    of_part = {"text": "text_proj", "fusion": "itm_logits"}[part]
    assert torch.equal(first[of_part], again[of_part])
    assert not torch.allclose(first[of_part], other[of_part], rtol=1e-2)
    assert not torch.allclose(first[of_part], wanted[of_part], rtol=1e-2)
    assert torch.equal(first["vision_proj"], wanted["vision_proj"]), "the vision tower has none"


def sites(model):
    """Return the modules that drop something, with an input each."""
    encoder, fused = model.text_encoder, model.cross_modal_text_layers[0]
    x, y = (torch.randn(40, 24, dtype=torch.float64) for _ in range(2))
    a, b = (torch.randn(40, 16, dtype=torch.float64) for _ in range(2))
    return {
        "embedding": (encoder.embedding, (torch.arange(4, 20), torch.arange(2, 18))),
        "text_attention": (encoder.layers[0].attention_norm, (x, y)),
        "text_mlp": (encoder.layers[0].mlp_norm, (x, y)),
        "fusion_attention": (fused.self_norm if hasattr(fused, "self_norm") else fused.mlp_norm, (a, b)),
        "fusion_mlp": (fused.mlp_norm, (a, b)),
    }


@pytest.mark.parametrize("name", ["embedding", "text_attention", "text_mlp", "fusion_attention", "fusion_mlp"])
def test_every_sub_layer_drops(name):
    model = model_of(text_dropout=0.4, fusion_dropout=0.4).train()
    module, inputs = sites(model)[name]
    first, other = module(*inputs), module(*inputs)
    assert not torch.allclose(first, other)
    module.eval()
    assert torch.equal(module(*inputs), module(*inputs))


@pytest.mark.parametrize("part", PARTS)
def test_recomputation_drops_the_same(part):
    found, wanted = (model_of(recompute=recompute, **PARTS[part]).train() for recompute in (True, False))
    results = []
    for model in (found, wanted):
        torch.manual_seed(5)
        results.append(packed(model, VIEWS))
    assert_equal(*results, 1e-12)
