"""Blocks with flat tensors compute what the model itself computes, and hold nothing that ZeRO-3 releases."""

import json

import pytest
import torch
from deepspeed.utils import z3_leaf_module
from torch import nn

from sclds.benchmarks.engine import BASE_DEPTH
from sclds.benchmarks.engine_worker import configuration
from sclds.config import EngineConfig
from sclds.config.errors import CheckpointError
from sclds.costs.communication import bucket_size
from sclds.data.tokenizer import load_tokenizer
from sclds.losses.communicator import SingleProcess
from sclds.losses.objectives import GlobalFeatures, features_of, step_loss
from sclds.model.blocks import blocks_of
from sclds.model.scl import SCLModel
from sclds.run.checkpoints import ENGINE_TAG, Checkpoint
from sclds.train import flat_blocks
from sclds.train.checkpoint import SavedParameters, fits
from sclds.train.deepspeed_settings import _own_settings
from sclds.train.engine import InitialWeights, fill_parameters, largest_block, model_outline
from sclds.train.flat_blocks import layout_of, materialize, weight_shapes
from sclds.train.optimizer import parameter_groups
from sclds.train.saved_state import KINDS, MODEL_FILE, SavedState
from tests.train.flat import split_flat
from tests.train.one_process import OneProcess
from tests.train.synthetic import MAKE_UPS, VOCABULARY, batch_of, tiny_config


def flat_model(config):
    model = model_outline(config, load_tokenizer("embedded"))
    materialize(model, {}, sharded=False)
    fill_parameters(model, InitialWeights(config, model), OneProcess(), sharded=False)
    return model


def plain_model(config):
    model = SCLModel(config.model, VOCABULARY)
    model.initialize(config.seed)
    return model


def total(model, config):
    kinds, words = MAKE_UPS["mixed"]
    batch = batch_of(config, 0, range(8), kinds, words)
    outputs = model(batch)
    features = GlobalFeatures.gather([features_of(outputs, batch)], [batch], config.losses, SingleProcess())
    return step_loss(outputs, batch, features, 0, config.losses)[0]


@pytest.mark.parametrize("tower", ["clip", "siglip2", "perception_encoder"])
def test_weights_are_the_same_under_the_same_names(tower):
    sizes = tiny_config().model.model_dump(mode="json")
    sizes["vision"]["type"] = tower
    config = tiny_config(model=sizes, masking={"scl_vision_ratio": 0.7})
    flat, plain = flat_model(config), plain_model(config)
    found = split_flat(dict(flat.named_parameters()), layout_of(flat))
    assert weight_shapes(flat) == {name: p.shape for name, p in plain.named_parameters()}
    assert found.keys() == dict(plain.named_parameters()).keys()
    assert all(torch.equal(found[name], p) for name, p in plain.named_parameters())
    assert len(list(flat.parameters())) < len(found) / 2
    assert largest_block(flat) == largest_block(plain)


def hooked(module):
    """Return the modules around whose forward and backward ZeRO-3 runs Python, as DeepSpeed goes through them."""
    inside = [] if z3_leaf_module(module) else [each for child in module.children() for each in hooked(child)]
    return inside if isinstance(module, nn.ModuleList) else [module, *inside]


def test_deepspeed_hooks_into_few_modules_and_parameters():
    """Of the base model's depth: 453 modules and 560 weights. One more to look after is host time in each step."""
    tokenizer = load_tokenizer("embedded")
    names = [name for name, _ in blocks_of(model_outline(configuration(BASE_DEPTH, 0, 1), tokenizer))]
    model = model_outline(configuration(BASE_DEPTH, 3, 1), tokenizer)
    blocks = {name: model.get_submodule(name) for name in names}
    assert {"text_encoder.layers.0", "mlm_score", "text_projection", "text_encoder.embedding"} <= blocks.keys()
    assert len(list(model.modules())) == 453
    assert len(weight_shapes(model)) == 560
    assert len(hooked(model)) == 51
    parameters = dict(model.named_parameters())
    assert len(parameters) == 93
    assert not any(len(list(block.parameters())) > 2 for block in blocks.values())
    assert parameters == dict(nn.Module.named_parameters(model)), "nothing is left out of the quick listing"
    assert all(
        dict(block.named_parameters("a")) == dict(nn.Module.named_parameters(block, "a")) for block in blocks.values()
    )
    for name, block in blocks.items():
        assert z3_leaf_module(block) == (len(list(block.modules())) > 1), name


def test_a_table_of_a_vocabulary_stays_a_parameter_of_its_own(monkeypatch):
    """Loss and gradients are as before, and released memory of such a table is not held either."""
    config = tiny_config()
    plain = plain_model(config)
    table = plain.text_encoder.embedding.word_embedding
    assert plain.mlm_score.decoder.weight.numel() == table.numel()
    monkeypatch.setattr(flat_blocks, "LARGEST_PIECE", table.numel() - 1)
    flat = flat_model(config)
    names = dict(flat.named_parameters())
    assert {"text_encoder.embedding.word_embedding", "mlm_score.decoder.weight"} <= names.keys()
    assert names == dict(nn.Module.named_parameters(flat))
    assert dict(flat.mlm_score.named_parameters()) == dict(nn.Module.named_parameters(flat.mlm_score))
    for parameter in flat.parameters():
        parameter.ds_id = 0
    loss, expected = total(flat, config), total(plain, config)
    decoder = flat.mlm_score.decoder.weight
    gathered, decoder.data = decoder.data, decoder.data.clone()
    gathered.fill_(float("nan"))
    loss.backward()
    expected.backward()
    assert torch.equal(loss, expected)
    gradients = split_flat({name: p.grad for name, p in flat.named_parameters()}, layout_of(flat))
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=0, atol=0, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
def test_loss_and_gradients_are_those_of_the_plain_model(recompute, released):
    """With `released` the flat tensors get other memory between forward and backward, and the old one is spoilt."""
    config = tiny_config(engine={"activation_checkpointing": recompute})
    flat, plain = flat_model(config), plain_model(config)
    expected = total(plain, config)
    expected.backward()
    if released:
        for parameter in flat.parameters():
            parameter.ds_id = 0  # as ZeRO-3 marks them
    loss = total(flat, config)
    for name, parameter in flat.named_parameters():
        if released and name in layout_of(flat):
            gathered = parameter.data
            parameter.data = torch.cat((gathered, gathered))[gathered.numel() :]  # part of a larger message
            gathered.fill_(float("nan"))
    loss.backward()
    assert torch.equal(loss, expected)
    gradients = split_flat({name: p.grad for name, p in flat.named_parameters()}, layout_of(flat))
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=0, atol=0, msg=lambda m, n=name: f"{n}: {m}")


def test_every_weight_has_the_rate_and_the_decay_of_its_group():
    config = tiny_config()

    def settings(model):
        owners = {id(p): name for name, p in model.named_parameters()}
        layout = layout_of(model)
        return {
            weight: (group["name"], group["lr"], group["weight_decay"])
            for group in parameter_groups(model, config.optimizer)
            for parameter in group["params"]
            for weight in layout.get(owners[id(parameter)], [owners[id(parameter)]])
        }

    assert settings(flat_model(config)) == settings(plain_model(config))


def test_a_block_reads_like_any_module_between_forwards_and_does_not_compute():
    block = flat_model(tiny_config()).text_encoder.layers[0]
    assert "in_features=32, out_features=96, bias=True" in repr(block)
    assert block.attention.qkv.weight.shape == (96, 32)
    with pytest.raises((RuntimeError, NotImplementedError)):
        float(block.attention.qkv.weight.sum())


def written(folder, tensors, layout):
    """Write parameters as stage 0 does, with moments that tell them apart, and return what is read of them."""
    (folder / ENGINE_TAG).mkdir(parents=True)
    optimizer = {
        "state": {n: {"step": 7, "exp_avg": t + 1, "exp_avg_sq": t + 2} for n, t in enumerate(tensors.values())},
        "param_groups": [{"param_names": list(tensors), "params": list(range(len(tensors)))}],
    }
    torch.save({"module": tensors, "optimizer": optimizer}, folder / ENGINE_TAG / MODEL_FILE)
    return SavedState(folder, layout)


def test_a_checkpoint_is_read_by_weight_and_into_any_layout(tmp_path):
    flat = flat_model(tiny_config())
    layout = layout_of(flat)
    parameters = {name: p.detach() for name, p in flat.named_parameters()}
    weights = {name: weight.clone() for name, weight in split_flat(parameters, layout).items()}
    states = {"flat": written(tmp_path / "flat", parameters, layout), "apart": written(tmp_path / "apart", weights, {})}
    for saved in states.values():
        assert saved.shapes == weight_shapes(flat)
        assert saved.optimizer_step == 7
        for more, kind in enumerate(KINDS):
            assert all(torch.equal(saved.read(name, kind), (w + more).flatten()) for name, w in weights.items())
            for wanted, whole in ((layout, parameters), ({}, weights)):
                found = SavedParameters(saved, wanted)
                for name, value in whole.items():
                    expected, size = (value + more).flatten(), value.numel()
                    assert found.numel(name) == size
                    assert torch.equal(found.read(name, kind), expected)
                    # pieces of three ranks, each of which may begin and end inside of a weight; the last may be empty
                    for start in (0, size // 3, size - 1, size):
                        stop = min(start + size // 3, size)
                        assert torch.equal(found.read(name, kind, start, stop), expected[start:stop])


def test_weights_that_do_not_make_up_a_parameter_are_refused(tmp_path):
    flat = flat_model(tiny_config())
    layout, parameters = layout_of(flat), {name: p.detach() for name, p in flat.named_parameters()}
    name = next(iter(layout))
    weight = next(iter(layout[name]))
    short = layout | {name: {key: shape for key, shape in layout[name].items() if key != weight}}
    with pytest.raises(CheckpointError, match=f"{name} has .* values, and the weights in it"):
        written(tmp_path / "short", parameters, short)
    with pytest.raises(CheckpointError, match="other is not there"):
        written(tmp_path / "absent", parameters, layout | {"other": {"weight": [1]}})


def test_only_shards_of_the_same_layout_fit(tmp_path):
    config, layout = tiny_config(), layout_of(flat_model(tiny_config()))
    turned = layout | {name: dict(reversed(inside.items())) for name, inside in layout.items()}

    def fitting(written_layout):
        described = Checkpoint(tmp_path, 1, 2, config.model_dump(mode="json"), written_layout)
        return fits(described, config, 2, layout)

    assert fitting(json.loads(json.dumps(layout)))
    assert not fitting({}), "of versions before flat blocks"
    assert not fitting(turned), "the same weights, one after the other in another order"


@pytest.mark.parametrize(
    ("block", "bucket"), [(0, 25_000_000), (9_450_000, 25_000_000), (16_800_000, 33_600_000), (10**9, 50_000_000)]
)
def test_a_bucket_holds_two_blocks_within_what_a_network_likes(block, bucket):
    assert bucket_size(block) == bucket


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_what_deepspeed_is_told_of_large_models_is_what_was_measured(stage):
    """Each of these, left to DeepSpeed, costs a step on a GPU what no run on a CPU feels (docs/engine.md)."""
    told = _own_settings(EngineConfig(zero_stage=stage), 9_450_000)
    assert told["timers"] == {"throughput": {"enabled": False}}, "it would wait for the device twice a micro-batch"
    zero = told["zero_optimization"]
    assert zero["reduce_bucket_size"] == zero["stage3_prefetch_bucket_size"] == bucket_size(9_450_000)
    assert zero["stage3_param_persistence_threshold"] == 0, "no gathers in the optimizer's step"
    assert zero["memory_efficient_linear"] is False
    assert zero["contiguous_gradients"] is True
