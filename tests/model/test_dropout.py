"""Dropout acts wherever the method has it, in training only, and recomputation draws what the first run drew."""

from dataclasses import replace

import pytest
import torch

from sclds.config import FusionConfig, ModelConfig, TextConfig, VisionConfig
from sclds.model.layers import SumNorm
from sclds.model.scl import SCLModel
from sclds.model.text import EMBEDDING_SITE
from sclds.reference.standalone.parameters_scl import PlainSCL
from tests.model.samples import assert_equal, model_of, pack_samples, packed, pixels, sample

VIEWS = [sample(0, partner=1), sample(1, "video", 2, inner=6, partner=0), sample(2, inner=7)]
PARTS = {"text": {"text_dropout": 0.4}, "fusion": {"fusion_dropout": 0.4}}


def outputs(model, occasion):
    """Return what the model gives when the samples are seen for the how-manieth time."""
    views = [replace(view, dropout_key=view.dropout_key + occasion) for view in VIEWS]
    torch.manual_seed(occasion)
    found = model(pack_samples(views))
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
        "fusion_self_attention": (fused.self_norm, (a, b)),
        "fusion_cross_attention": (fused.cross_norm, (a, b)),
        "fusion_mlp": (fused.mlp_norm, (a, b)),
    }


SITES = ("embedding", "text_attention", "text_mlp", "fusion_self_attention", "fusion_cross_attention", "fusion_mlp")


@pytest.mark.parametrize("name", SITES)
def test_every_sub_layer_drops_by_the_keys_of_its_rows(name):
    model = model_of(text_dropout=0.4, fusion_dropout=0.4).train()
    module, inputs = sites(model)[name]
    keys = torch.arange(len(inputs[0]))
    first = module(*inputs, keys)
    assert torch.equal(module(*inputs, keys), first)
    assert not torch.allclose(module(*inputs, keys + 1000), first)
    reordered = torch.randperm(len(keys))
    assert torch.equal(module(*(x[reordered] for x in inputs), keys[reordered]), first[reordered])
    with pytest.raises(ValueError, match="needs the rows' keys"):
        module(*inputs, None)
    module.eval()
    assert torch.equal(module(*inputs, None), module(*inputs, keys))


def test_no_two_places_of_the_model_drop_alike():
    model = model_of(fusion_layers=3, text_dropout=0.4, fusion_dropout=0.4)
    found = [module.site for module in model.modules() if isinstance(module, SumNorm) and module.dropout]
    assert len({EMBEDDING_SITE, *found}) == 1 + len(found) == 1 + 2 * 2 + 2 * 3 * 3


def test_no_two_rows_of_a_batch_have_one_key():
    views = [
        sample(n, "video" if n % 3 else "image", 1 + n % 3 % 2 * 7, inner=1 + n, partner=(n + 1) % 9) for n in range(9)
    ]
    keys = pack_samples(views).dropout_keys
    every = torch.cat((keys.text, keys.vision, keys.text_pairs, keys.vision_pairs))
    assert len(every.unique()) == len(every)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_what_is_dropped_does_not_depend_on_the_batch_and_its_order(layers):
    """One micro-batch, its samples in another order, and each packed alone: the same outputs of every sample."""
    views = [sample(0, inner=4), sample(1, "video", 2, inner=6), sample(2, inner=7), sample(3, "video", 1, inner=1)]
    dropped = {"text_dropout": 0.4, "fusion_dropout": 0.4, "attention_dropout": 0.0}
    model = model_of(layers, **dropped).train()
    whole = model(pack_samples(views, layers=layers))
    other = model(pack_samples(views, layers=layers, order=(2, 0, 3, 1)))
    without = model.eval()(pack_samples(views, layers=layers))
    model.train()
    names = ("text_proj", "vision_proj", "itm_logits", "text_recovered")
    for name in names:
        torch.testing.assert_close(other[name], whole[name], rtol=1e-9, atol=1e-11)
        assert name == "vision_proj" or not torch.allclose(whole[name], without[name], rtol=1e-2)
    rows = sum((v.frames * v.grid**2 for v in views), 0)
    first = 0
    for number, view in enumerate(views):
        own = pixels(views)[first : first + view.frames * view.grid**2]
        first += len(own)
        alone = model(pack_samples([replace(view, itm_partner=0)], layers=layers, patches=own))
        for name in names:
            torch.testing.assert_close(alone[name][0], whole[name][number], rtol=1e-9, atol=1e-11)
    assert first == rows


@pytest.mark.parametrize("part", PARTS)
def test_recomputation_drops_the_same(part):
    found, wanted = (model_of(recompute=recompute, **PARTS[part]).train() for recompute in (True, False))
    results = []
    for model in (found, wanted):
        torch.manual_seed(5)
        results.append(packed(model, VIEWS))
    assert_equal(*results, 1e-12)


TINY = {"width": 8, "layers": 1, "heads": 2}


def attention_and_other_dropout(text, fusion):
    """Return the dropout of attention weights and all other dropout of a model, ours and as it is exported."""
    config = ModelConfig(
        vision=VisionConfig(**TINY, patch_size=4, pretrained_image_size=8),
        text=TextConfig(**TINY, max_positions=8, vocab_size=9, **text),
        fusion=FusionConfig(**TINY, **fusion),
    )
    ours, exported = SCLModel(config, 9), PlainSCL(config.model_dump(mode="json"), 1)
    found = []
    for model in (ours, exported):
        dropping = {name: m for name, m in model.named_modules() if isinstance(getattr(m, "dropout", None), float)}
        for part in ("text_encoder", "cross_modal"):
            chosen = {name: m for name, m in dropping.items() if name.removeprefix("scl.").startswith(part)}
            assert chosen, part
            found.append(
                (
                    {m.dropout for m in chosen.values() if hasattr(m, "heads")},
                    {m.dropout for m in chosen.values() if not hasattr(m, "heads")},
                )
            )
    assert found[:2] == found[2:], "the exported model drops otherwise"
    return found[:2]


@pytest.mark.parametrize(
    ("text", "fusion", "wanted"),
    [
        ({}, {}, [({0.1}, {0.1}), ({0.1}, {0.1})]),
        ({"dropout": 0.0}, {"dropout": 0.3}, [({0.0}, {0.0}), ({0.3}, {0.3})]),
        ({"attention_dropout": 0.0}, {"attention_dropout": 0.2}, [({0.0}, {0.1}), ({0.2}, {0.1})]),
        ({"dropout": 0.0, "attention_dropout": 0.5}, {"dropout": 0.0}, [({0.5}, {0.0}), ({0.0}, {0.0})]),
    ],
)
def test_attention_has_a_dropout_of_its_own(text, fusion, wanted):
    """By default that of the rest, as published; the exported code has the same."""
    assert attention_and_other_dropout(text, fusion) == wanted


def test_exports_of_before_there_was_one_drop_attention_as_the_rest():
    architecture = ModelConfig(text=TextConfig(**TINY, max_positions=8, vocab_size=9)).model_dump(mode="json")
    for section in ("text", "fusion"):
        del architecture[section]["attention_dropout"]
    model = PlainSCL(
        architecture | {"fusion": architecture["fusion"] | TINY, "vision": VisionConfig(**TINY).model_dump()}, 1
    )
    assert {m.dropout for m in model.modules() if hasattr(m, "heads") and hasattr(m, "dropout")} == {0.1}
