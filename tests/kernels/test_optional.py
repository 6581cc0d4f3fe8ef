"""Optional libraries are told apart by their modules; Apex is tested with a stand-in of the same signature."""

import sys

import pytest
import torch

from scl_kernels import norms
from scl_kernels.norms import layer_norm, norms_problem, set_norms
from scl_kernels.optional import optional_libraries
from sclds.config import ModelConfig
from sclds.model.layers import LayerNorm
from sclds.model.scl import SCLModel

SMALL = {"width": 8, "heads": 1, "layers": 2}

APEX = """
import torch
calls = []
def fused_layer_norm_affine(input, weight, bias, normalized_shape, eps=1e-6, memory_efficient=False):
    calls.append(normalized_shape)
    return torch.nn.functional.layer_norm(input, normalized_shape, weight, bias, eps)
"""
LIGER = """
import torch
calls = []
class LigerLayerNormFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, X, W, B, eps):
        calls.append(X.shape)
        ctx.save_for_backward(X, W, B)
        ctx.eps = eps
        return torch.nn.functional.layer_norm(X, W.shape, W, B, eps)
    @staticmethod
    def backward(ctx, dY):
        with torch.enable_grad():
            inputs = [x.detach().requires_grad_() for x in ctx.saved_tensors]
            out = torch.nn.functional.layer_norm(inputs[0], inputs[1].shape, *inputs[1:], ctx.eps)
            return *torch.autograd.grad(out, inputs, dY), None
"""
FILES = {
    "apex": {"optimizers/__init__.py": "", "normalization/__init__.py": "", "normalization/fused_layer_norm.py": APEX},
    "liger": {"ops/__init__.py": "", "ops/layer_norm.py": LIGER},
}
MODULES = {"apex": "apex.normalization.fused_layer_norm", "liger": "liger_kernel.ops.layer_norm"}


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Return a function that puts a package with the given files on the path; all is as before afterwards."""

    def put(package, files):
        for name, text in {"__init__.py": "", **files}.items():
            path = tmp_path / package / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))

    yield put
    norms._process_wide = "torch"
    for name in [name for name in sys.modules if name.split(".")[0] in ("apex", "liger_kernel")]:
        del sys.modules[name]


def named(name):
    return next(library for library in optional_libraries() if library.name == name)


def test_the_unrelated_package_of_the_same_name_is_told_apart(install):
    install("apex", {"__init__.py": "raise ImportError('looking must not import')"})
    apex = named("NVIDIA Apex")
    assert not apex.present
    assert "it is another one: it has no optimizers and no normalization" in apex.why
    assert apex.remedy.startswith("pip uninstall apex; then build it from github.com/NVIDIA/apex")


FLASH = {"flash_attn_interface.py": "raise ImportError('looking must not import')"}


@pytest.mark.parametrize(
    ("packages", "present", "why"),
    [
        ({"flash_attn": FLASH}, {"flash-attn"}, "the package `flash_attn` that is has no cute"),
        (
            {"flash_attn": {"cute/__init__.py": ""}, "cutlass": {}, "quack": {}},
            {"flash-attn 4"},
            "the package `flash_attn` that is has no flash_attn_interface",
        ),
        (
            {"flash_attn": FLASH | {"cute/__init__.py": ""}, "cutlass": {}, "quack": {}},
            {"flash-attn", "flash-attn 4"},
            "",
        ),
        ({"flash_attn": {"cute/__init__.py": ""}, "quack": {}}, set(), "installed without cutlass, which it imports"),
        ({"": {"flash_attn_interface.py": ""}, "flash_attn_3": {}}, {"flash-attn 3"}, ""),
        ({"": {"flash_attn_interface.py": ""}}, set(), "installed without flash_attn_3, which it imports"),
    ],
)
def test_flash_attentions_that_share_a_package_are_told_apart(install, packages, present, why):
    for package, files in packages.items():
        install(package, files)
    found = [library for library in optional_libraries() if library.name.startswith("flash-attn")]
    assert {library.name for library in found if library.present} == present
    assert why in "; ".join(library.why for library in found if not library.present)
    assert not any("pip uninstall" in library.remedy for library in found)


@pytest.mark.parametrize("name", ["apex", "liger"])
def test_a_fused_layer_norm_serves_the_models_layers(name, install, monkeypatch):
    """Stand-ins with the libraries' signatures: values, gradients, and that the model's module goes through them."""
    package = MODULES[name].split(".")[0]
    install(package, FILES[name])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    layer = LayerNorm(4, eps=1e-3)
    torch.nn.init.normal_(layer.weight)
    x = torch.randn(5, 4, requires_grad=True)
    wanted = torch.nn.functional.layer_norm(x, (4,), layer.weight, layer.bias, 1e-3)
    set_norms(name)
    out = layer(x)
    torch.testing.assert_close(out, wanted)
    inputs, d_out = (x, layer.weight, layer.bias), torch.randn(5, 4)
    for got, gradient in zip(
        torch.autograd.grad(out, inputs, d_out), torch.autograd.grad(wanted, inputs, d_out), strict=True
    ):
        torch.testing.assert_close(got, gradient)
    assert len(sys.modules[MODULES[name]].calls) == 1
    with pytest.raises(ValueError, match=r"weight has shape \(3,\); expected \(4\)"):
        layer_norm(x, torch.ones(3), layer.bias, 1e-3)


def test_every_layer_norm_of_the_model_follows_the_choice():
    model = SCLModel(ModelConfig(vision=SMALL, text=SMALL, fusion=SMALL), 10)
    plain = [name for name, layer in model.named_modules() if isinstance(layer, torch.nn.LayerNorm)]
    ours = [name for name, layer in model.named_modules() if isinstance(layer, LayerNorm)]
    assert ours == plain
    assert len(ours) > 10


def test_a_missing_or_unknown_choice_is_refused(install, monkeypatch):
    with pytest.raises(ValueError, match="norms is 'fast'; choose one of torch, apex, liger"):
        set_norms("fast")
    assert norms_problem("torch") is None
    install("apex", {})
    with pytest.raises(ValueError, match="norms=apex needs NVIDIA Apex, which is missing"):
        set_norms("apex")
    install("liger_kernel", FILES["liger"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert norms_problem("liger") == "norms=liger needs a CUDA device, and there is none; use norms=torch"
