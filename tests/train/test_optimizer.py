import sys
from functools import partial

import pytest
import torch
from torch import nn

from sclds.config import ModelConfig, OptimizerConfig
from sclds.model.groups import parameter_group
from sclds.model.scl import SCLModel
from sclds.train import optimizer as module
from sclds.train.optimizer import ReplicatedAdamW, decays, implementation_problems, parameter_groups, set_learning_rate


class Fusion(nn.Linear):
    parameter_group = "fusion"


class Heads(nn.Linear):
    parameter_group = "heads"


class Model(nn.Module):
    """A module of each group, and one of another group inside it."""

    parameter_group = "encoders"

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 2), Fusion(2, 2)])
        self.score = Heads(2, 2)
        self.token = nn.Parameter(torch.zeros(2))


def groups(config):
    model = Model()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {g["name"]: ([names[id(p)] for p in g["params"]], g) for g in parameter_groups(model, config)}


def test_modules_decide_the_rate_and_dimensions_the_decay():
    found = groups(OptimizerConfig(learning_rate=1e-3, fusion_multiplier=5, heads_multiplier=7, weight_decay=0.1))
    assert {name: members for name, (members, _) in found.items()} == {
        "encoders": ["layers.0.weight"],
        "encoders-no-decay": ["token", "layers.0.bias"],
        "fusion": ["layers.1.weight"],
        "fusion-no-decay": ["layers.1.bias"],
        "heads": ["score.weight"],
        "heads-no-decay": ["score.bias"],
    }
    for name, (_, group) in found.items():
        assert group["weight_decay"] == (0 if name.endswith("no-decay") else 0.1)
        assert group["lr"] == pytest.approx(1e-3 * {"encoders": 1, "fusion": 5, "heads": 7}[name.split("-")[0]])


def test_every_part_of_the_model_declares_its_group():
    with torch.device("meta"):
        model = SCLModel(ModelConfig(), 10)
    members = {}
    for name, _ in model.named_parameters():
        members.setdefault(parameter_group(model, name), set()).add(name.split(".")[0])
    assert members == {
        "encoders": {"vision_encoder", "text_encoder", "text_projection", "vision_projection", "temperature"},
        "fusion": {
            "token_type_embeddings",
            *(f"cross_modal_{side}_{part}" for side in ("text", "image") for part in ("transform", "layers", "pooler")),
        },
        "heads": {"mlm_score", "itm_score"},
    }


def test_a_module_without_a_group_is_an_error():
    with pytest.raises(ValueError, match="declares a parameter_group"):
        parameter_group(nn.Sequential(nn.Linear(2, 2)), "0.weight")


def test_norms_biases_and_the_temperature_never_decay():
    with torch.device("meta"):
        model = SCLModel(ModelConfig(), 10)
    decayed = {name for name, p in model.named_parameters() if decays(name, p.dim())}
    assert not any("norm" in name or "bias" in name or "temperature" in name for name in decayed)
    assert {"vision_encoder.embedding.patch_weight", "text_encoder.embedding.word_embedding"} <= decayed


def test_frozen_parameters_are_left_out():
    assert parameter_groups(Heads(2, 2).requires_grad_(False), OptimizerConfig()) == []


def test_the_factor_multiplies_every_groups_own_peak():
    optimizer = torch.optim.AdamW(parameter_groups(Model(), OptimizerConfig(learning_rate=1.0)))
    for factor in (0.5, 0.25):
        set_learning_rate(optimizer, factor)
        assert {group["lr"] for group in optimizer.param_groups} == {factor, 5 * factor}


def test_the_guard_clips_like_torch_and_skips_what_is_not_finite():
    ours, theirs = (nn.Parameter(torch.ones(3)) for _ in range(2))
    guarded = ReplicatedAdamW([("ours", ours)], clip_norm=1.0, lr=0.1)
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
    assert ours.grad is None


def test_replicated_weights_of_bf16_stay_fp32_and_their_gradients_are_added_in_fp32():
    weight = torch.tensor([1.0, 1 / 3, -2.7])
    layer = nn.Linear(3, 1, bias=False)
    layer.weight.data = weight[None].clone()
    optimizer = ReplicatedAdamW([("weight", layer.weight)], 0.0, torch.bfloat16, lr=1e-4)
    assert layer.weight.dtype == torch.bfloat16
    assert torch.equal(optimizer.masters()["weight"], weight[None])
    pieces = [torch.tensor([[1.0, 2.0**-9, 3.0]]).bfloat16() for _ in range(5)]
    for piece in pieces:
        layer(piece).backward(torch.ones(1, 1, dtype=torch.bfloat16))
    [gradient], experts = optimizer.get_grads_for_reduction()
    assert torch.equal(gradient, sum(piece.float() for piece in pieces))
    assert experts == {}
    optimizer.step()
    master = optimizer.masters()["weight"].detach()
    assert not torch.equal(master, weight[None])
    assert torch.equal(layer.weight, master.bfloat16())
    other = nn.Linear(3, 1, bias=False)
    resumed = ReplicatedAdamW([("weight", other.weight)], 0.0, torch.bfloat16, lr=1e-4)
    resumed.load_state_dict(optimizer.state_dict())
    assert torch.equal(resumed.masters()["weight"], master)
    assert torch.equal(other.weight, layer.weight)


@pytest.fixture
def apex(tmp_path, monkeypatch):
    """Return a folder on the path that is imported as `apex`."""
    folder = tmp_path / "apex"
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == "apex"]:
        del sys.modules[name]


def test_an_unrelated_package_named_apex_is_not_nvidias(apex):
    [problem] = implementation_problems(OptimizerConfig(implementation="apex"))
    assert "optimizer.implementation=apex needs NVIDIA Apex, which is missing" in problem
    assert "it is another one: it has no optimizers and no normalization" in problem
    assert problem.endswith("or use optimizer.implementation=torch")


FUSED_ADAM = """
import torch
class FusedAdam(torch.optim.AdamW):
    def __init__(self, params, lr=1e-3, bias_correction=True, betas=(0.9, 0.999), eps=1e-8, adam_w_mode=True,
                 weight_decay=0.0, amsgrad=False, set_grad_none=True, capturable=False, master_weights=False):
        assert adam_w_mode
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
"""


def test_apex_fused_adam_gets_the_groups_and_steps_like_torchs(apex, monkeypatch):
    """A stand-in with Apex's signature: what is passed to it, and that it is AdamW's decoupled decay."""
    (apex / "optimizers").mkdir()
    (apex / "optimizers" / "__init__.py").write_text(FUSED_ADAM)
    (apex / "normalization").mkdir()
    steps = []
    for implementation, cuda in (("apex", True), ("torch", False)):
        model = Heads(2, 2, bias=False)
        parameter = model.weight
        nn.init.ones_(parameter)
        settings = OptimizerConfig(implementation=implementation)
        monkeypatch.setattr(module.torch.cuda, "is_available", partial(bool, cuda))
        optimizer = module.build_optimizer(model, settings)
        parameter.grad = torch.full((2, 2), 0.5)
        optimizer.step()
        steps.append(parameter.detach())
        assert type(optimizer).__name__ == ("FusedAdam" if implementation == "apex" else "AdamW")
    assert torch.equal(*steps)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the fused kernel can run here")
def test_a_fused_implementation_without_its_device_is_refused():
    [problem] = implementation_problems(OptimizerConfig(implementation="deepspeed"))
    assert "optimizer.implementation=torch" in problem


def test_the_norm_that_clips_is_summed_in_fp64():
    gradients = [torch.full((3_000_000,), 1e-4), torch.full((3,), 1.0), torch.full((1_000_000,), 3e-5)]
    exact = sum(float((g.double() ** 2).sum()) for g in gradients) ** 0.5
    assert float(module.total_norm(gradients)) == pytest.approx(exact, rel=1e-12)
