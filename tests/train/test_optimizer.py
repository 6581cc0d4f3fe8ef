import sys

import pytest
import torch
from torch import nn

from sclds.config import OptimizerConfig
from sclds.train import optimizer as module
from sclds.train.optimizer import GuardedAdamW, group_of, implementation_problems, parameter_groups, set_learning_rate

PARAMETERS = {
    "text_encoder.layers.0.query.weight": (2, 2),
    "text_encoder.layers.0.query.bias": (2,),
    "vision_encoder.ln_pre.weight": (2,),
    "temperature.value": (),
    "text_projection.dense.weight": (2, 2),
    "cross_modal_text_transform.weight": (2, 2),
    "cross_modal_image_layers.1.norm.weight": (2,),
    "cross_modal_text_pooler.dense.bias": (2,),
    "token_type_embeddings.weight": (2, 2),
    "mlm_score.decoder.weight": (2, 2),
    "mlm_score.bias": (2,),
    "itm_score.weight": (2, 2),
}


def groups(config):
    named = [(name, nn.Parameter(torch.zeros(shape))) for name, shape in PARAMETERS.items()]
    names = {id(parameter): name for name, parameter in named}
    return {g["name"]: ([names[id(p)] for p in g["params"]], g) for g in parameter_groups(named, config)}


def test_names_decide_rate_and_decay():
    found = groups(OptimizerConfig(learning_rate=1e-3, fusion_multiplier=5, heads_multiplier=7, weight_decay=0.1))
    assert {name: members for name, (members, _) in found.items()} == {
        "encoders": ["text_encoder.layers.0.query.weight", "text_projection.dense.weight"],
        "encoders-no-decay": ["text_encoder.layers.0.query.bias", "vision_encoder.ln_pre.weight", "temperature.value"],
        "fusion": ["cross_modal_text_transform.weight", "token_type_embeddings.weight"],
        "fusion-no-decay": ["cross_modal_image_layers.1.norm.weight", "cross_modal_text_pooler.dense.bias"],
        "heads": ["mlm_score.decoder.weight", "itm_score.weight"],
        "heads-no-decay": ["mlm_score.bias"],
    }
    for name, (_, group) in found.items():
        assert group["weight_decay"] == (0 if name.endswith("no-decay") else 0.1)
        assert group["lr"] == pytest.approx(1e-3 * {"encoders": 1, "fusion": 5, "heads": 7}[name.split("-")[0]])


def test_the_temperature_never_decays():
    assert group_of("temperature", 2) == ("encoders", False)


def test_frozen_parameters_are_left_out():
    frozen = nn.Parameter(torch.zeros(2, 2), requires_grad=False)
    assert parameter_groups([("a.weight", frozen)], OptimizerConfig()) == []


def test_the_factor_multiplies_every_groups_own_peak():
    named = [(name, nn.Parameter(torch.zeros(shape))) for name, shape in PARAMETERS.items()]
    optimizer = torch.optim.AdamW(parameter_groups(named, OptimizerConfig(learning_rate=1.0)))
    for factor in (0.5, 0.25):
        set_learning_rate(optimizer, factor)
        assert {group["lr"] for group in optimizer.param_groups} == {factor, 5 * factor}


def test_the_guard_clips_like_torch_and_skips_what_is_not_finite():
    ours, theirs = (nn.Parameter(torch.ones(3)) for _ in range(2))
    guarded = GuardedAdamW([ours], clip_norm=1.0, lr=0.1)
    plain = torch.optim.AdamW([theirs], lr=0.1)
    for scale in (1.0, 30.0):
        gradient = torch.tensor([1.0, -2.0, 0.5]) * scale
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        torch.nn.utils.clip_grad_norm_([theirs], 1.0)
        guarded.step()
        plain.step()
    assert not guarded.overflow
    torch.testing.assert_close(ours, theirs)
    before = ours.detach().clone()
    ours.grad = torch.tensor([1.0, float("nan"), 0.0])
    guarded.step()
    assert guarded.overflow
    assert torch.equal(before, ours)


def test_an_unrelated_package_named_apex_is_not_nvidias(tmp_path, monkeypatch):
    (tmp_path / "apex").mkdir()
    (tmp_path / "apex" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("apex", None)
    assert not module.nvidia_apex_installed()
    [problem] = implementation_problems(OptimizerConfig(implementation="apex"))
    assert "another package" in problem
    sys.modules.pop("apex", None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the fused kernel can run here")
def test_a_fused_implementation_without_its_device_is_refused():
    [problem] = implementation_problems(OptimizerConfig(implementation="deepspeed"))
    assert "optimizer.implementation=torch" in problem


def test_the_norm_that_clips_is_summed_in_fp64():
    gradients = [torch.full((3_000_000,), 1e-4), torch.full((3,), 1.0), torch.full((1_000_000,), 3e-5)]
    exact = sum(float((g.double() ** 2).sum()) for g in gradients) ** 0.5
    assert float(module.total_norm(gradients)) == pytest.approx(exact, rel=1e-12)
