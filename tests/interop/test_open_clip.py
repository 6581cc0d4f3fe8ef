"""Vision encoders of open_clip and timm against ours, on small random models.

Both packages import torchvision and use nothing of it here; where it cannot be imported, stand-ins serve.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import json
import sys
import types
from functools import partial

import pytest
import torch
from safetensors.torch import save_file

from sclds.cli.main import main
from sclds.interop.folder import build_model, read_folder
from tests.interop.test_encoders import FUSION, perturbed, small_roberta
from tests.model.towers import encode_images

PATCH, NATIVE = 8, 32


class Anything(type):
    """A class whose attributes are their own names."""

    def __getattr__(cls, name):
        return name


class StandIn(types.ModuleType):
    """A module of torchvision that has every name; each is a class that nothing here makes anything of."""

    __path__ = ()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything(name, (), {})


class StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds any module of torchvision."""

    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name.split(".")[0] == "torchvision" else None

    def create_module(self, spec):
        return StandIn(spec.name)

    def exec_module(self, module):
        pass


@pytest.fixture(scope="module")
def open_clip():
    """open_clip, beside the real torchvision or stand-ins for it."""
    for package in ("open_clip", "timm", "ftfy"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install --no-deps -r requirements/references.txt")
    finder = StandIns()
    try:
        import torchvision.ops.misc  # noqa: F401
    except (ImportError, RuntimeError):  # not installed, or built for another torch
        sys.meta_path.insert(0, finder)
    try:
        import open_clip
        import timm  # noqa: F401
    finally:
        if finder in sys.meta_path:  # others must not find the stand-ins
            sys.meta_path.remove(finder)
            for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
                del sys.modules[name]
    return open_clip


@pytest.fixture
def roberta(tmp_path):
    small_roberta().save_pretrained(tmp_path / "roberta")
    return tmp_path / "roberta"


def written(path, state, vision, quick_gelu=False, weights="open_clip_model.safetensors"):
    """Write a folder as open_clip pushes it to a hub."""
    path.mkdir()
    settings = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": {}} | ({"quick_gelu": True} if quick_gelu else {})
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": settings, "preprocess_cfg": {}}))
    state = {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
    if weights.endswith(".safetensors"):
        save_file(state, path / weights)
    else:
        torch.save(state, path / weights)
    return path


def convert(tmp_path, vision, text, *more):
    names = ["--vision", str(vision), "--text", str(text)]
    return main(["convert", "encoders", str(tmp_path / "out"), *names, "--model", *FUSION, *more])


def converted_tower(tmp_path, vision, text, *more):
    assert convert(tmp_path, vision, text, *more) == 0
    folder = read_folder(tmp_path / "out")
    return folder.config.vision, build_model(folder.config, folder.weights).eval().vision_encoder


@pytest.mark.parametrize("quick_gelu", [False, True])
@pytest.mark.parametrize("weights", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_open_clip_without_its_last_block(open_clip, roberta, tmp_path, quick_gelu, weights):
    """Heads of another width than 64, as H/14 has them, a feed-forward of another ratio, and both activations."""
    torch.manual_seed(0)
    sizes = {"image_size": NATIVE, "layers": 3, "width": 40, "head_width": 20, "patch_size": PATCH, "mlp_ratio": 3.2}
    text = {"context_length": 8, "vocab_size": 20, "width": 16, "heads": 2, "layers": 1}
    model = perturbed(open_clip.CLIP(16, sizes, text, quick_gelu=quick_gelu)).eval()
    folder = written(tmp_path / "clip", model.state_dict(), sizes, quick_gelu, weights)
    config, tower = converted_tower(tmp_path, folder, roberta)
    assert (config.type, config.layers, config.heads, config.mlp_width) == ("clip", 2, 2, 128)
    assert config.activation == ("quick_gelu" if quick_gelu else "gelu")
    pixels, states = torch.randn(3, 3, NATIVE, NATIVE), []
    model.visual.transformer.resblocks[-2].register_forward_hook(lambda *args: states.append(args[2]))
    with torch.no_grad():
        model.visual(pixels)
        expected = model.visual.ln_post(states[0])
        found = encode_images(tower, pixels, PATCH)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def small_siglip(open_clip):
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    sizes = {"img_size": NATIVE, "patch_size": PATCH, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 0}
    tanh = partial(torch.nn.GELU, approximate="tanh")
    return perturbed(VisionTransformer(**sizes, class_token=False, global_pool="map", act_layer=tanh)).eval()


def test_siglip_of_timm(open_clip, roberta, tmp_path):
    trunk = small_siglip(open_clip)
    # timm's pooling has the exact GELU whatever the blocks have; released SigLIP weights were trained with the other
    trunk.attn_pool.mlp.act = torch.nn.GELU(approximate="tanh")
    state = {f"visual.trunk.{name}": tensor for name, tensor in trunk.state_dict().items()}
    folder = written(tmp_path / "siglip", state, {"timm_model_name": "vit_base_patch16_siglip_224", "timm_pool": "map"})
    config, tower = converted_tower(tmp_path, folder, roberta, "vision.heads=2")
    assert (config.type, config.layers, config.layer_norm_eps) == ("siglip2", 2, 1e-6)
    pixels = torch.randn(3, 3, NATIVE, NATIVE)
    with torch.no_grad():
        states = trunk.forward_features(pixels)
        found = encode_images(tower, pixels, PATCH)
        torch.testing.assert_close(found[:, 1:], states, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found[:, 0], trunk.forward_head(states), rtol=1e-5, atol=1e-5)


def small_perception_encoder(class_token=True):
    from timm.layers import LayerNorm
    from timm.models.eva import Eva

    torch.manual_seed(0)
    sizes = {"img_size": NATIVE, "patch_size": PATCH, "embed_dim": 128, "depth": 2, "num_heads": 2, "num_classes": 16}
    rotary = {"use_rot_pos_emb": True, "rope_grid_offset": 1.0, "rope_grid_indexing": "xy"}
    reference = (NATIVE // PATCH, NATIVE // PATCH)
    model = Eva(
        **sizes,
        **rotary,
        ref_feat_shape=reference,
        global_pool="map",
        attn_type="rope",
        use_pre_transformer_norm=True,
        attn_pool_num_heads=8,
        attn_pool_mlp_ratio=4.0,
        class_token=class_token,
        norm_layer=partial(LayerNorm, eps=1e-5),
    )
    return perturbed(model).eval()


def test_perception_encoder_of_timm(open_clip, roberta, tmp_path):
    trunk = small_perception_encoder()
    state = {f"visual.trunk.{name}": tensor for name, tensor in trunk.state_dict().items()}
    folder = written(tmp_path / "pe", state, {"timm_model_name": "vit_pe_core_base_patch16_224", "timm_pool": "map"})
    config, tower = converted_tower(tmp_path, folder, roberta)
    assert (config.type, config.layers, config.heads) == ("perception_encoder", 2, 2)
    pixels = torch.randn(3, 3, NATIVE, NATIVE)
    with torch.no_grad():
        found, expected = encode_images(tower, pixels, PATCH), trunk.forward_features(pixels)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert any(name.startswith("vision attn_pool.") for name in read_folder(tmp_path / "out").origin.dropped)


OWN_NAMES = [
    ("patch_embed.proj", "conv1"),
    ("pos_embed", "positional_embedding"),
    ("cls_token", "class_embedding"),
    ("blocks.", "transformer.resblocks."),
    ("norm_pre", "ln_pre"),
    (".norm", ".ln_"),
    ("attn.qkv.", "attn.in_proj_"),
    ("attn.proj", "attn.out_proj"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
]


def own_names(trunk):
    """The same weights as its authors publish them; the pooling, which nothing reads, is cut down to one tensor."""
    state = {"attn_pool.probe": trunk.attn_pool.latent.detach()}
    for name, tensor in trunk.state_dict().items():
        if not name.startswith(("attn_pool.", "head.")):
            name = "ln_post" + name.removeprefix("norm") if name.startswith("norm.") else name
            for theirs, own in OWN_NAMES:
                name = name.replace(theirs, own)
            state[name] = tensor.squeeze() if name == "class_embedding" else tensor
    state["positional_embedding"] = state["positional_embedding"][0]
    return state


def test_perception_encoder_of_its_authors(open_clip, roberta, tmp_path):
    trunk = small_perception_encoder()
    torch.save({f"visual.{name}": tensor for name, tensor in own_names(trunk).items()}, tmp_path / "PE-Core.pt")
    _, tower = converted_tower(tmp_path, tmp_path / "PE-Core.pt", roberta)
    pixels = torch.randn(2, 3, NATIVE, NATIVE)
    with torch.no_grad():
        found, expected = encode_images(tower, pixels, PATCH), trunk.forward_features(pixels)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_what_is_no_perception_encoder_that_scl_can_read_is_a_sentence(open_clip, roberta, tmp_path, capsys):
    trunk = small_perception_encoder(class_token=False)
    state = {f"visual.trunk.{name}": tensor for name, tensor in trunk.state_dict().items()}
    folder = written(tmp_path / "pe", state, {"timm_model_name": "vit_pe_core_gigantic_patch14_448"})
    assert convert(tmp_path, folder, roberta) == 2
    assert "has no [CLS] token (PE core G has none)" in capsys.readouterr().err
    spatial = own_names(small_perception_encoder())
    spatial["transformer.resblocks.0.ls_1.gamma"] = torch.ones(128)
    torch.save(spatial, tmp_path / "PE-Spatial.pt")
    assert convert(tmp_path, tmp_path / "PE-Spatial.pt", roberta) == 2
    assert "parts that this tower lacks: transformer.resblocks.0.ls_1.gamma" in capsys.readouterr().err
    torch.save({"conv1.weight": torch.ones(1)}, tmp_path / "other.pt")
    assert convert(tmp_path, tmp_path / "other.pt", roberta) == 2
    assert "holds no Perception Encoder" in capsys.readouterr().err


SIZES = {"image_size": NATIVE, "layers": 2, "width": 16, "head_width": 8, "patch_size": PATCH}
WIDTH = {"visual.class_embedding": torch.zeros(16)}


@pytest.mark.parametrize(
    ("vision", "told"),
    [
        ({"layers": [3, 4, 6, 3]}, "a convolutional vision encoder"),
        (SIZES | {"attentional_pool": True}, "computes something else than CLIP's: attentional_pool=True"),
        (SIZES | {"ls_init_value": 0.1, "qk_norm": True}, "ls_init_value=0.1, qk_norm=True"),
        (SIZES | {"image_size": [32, 16]}, "is [32, 16], expected a square"),
        ({"timm_model_name": "convnext_base"}, "is timm's convnext_base; expected a SigLIP"),
        ({"timm_model_name": "vit_base_patch16_siglip_224"}, "lacks its weights"),
        (SIZES, "it is partial or another model"),
    ],
)
def test_folders_of_open_clip_that_cannot_be_taken_are_a_sentence(roberta, tmp_path, capsys, vision, told):
    assert convert(tmp_path, written(tmp_path / "other", WIDTH, vision), roberta) == 2
    assert told in " ".join(capsys.readouterr().err.split())


def test_damaged_files_of_open_clip_are_a_sentence(roberta, tmp_path, capsys):
    folder = written(tmp_path / "clip", WIDTH, SIZES)
    (folder / "open_clip_model.safetensors").write_bytes(b"nothing")
    assert convert(tmp_path, folder, roberta) == 2
    assert "has no header of a safetensors file" in capsys.readouterr().err
    (folder / "open_clip_model.safetensors").unlink()
    assert convert(tmp_path, folder, roberta) == 2
    assert "no weights beside it" in capsys.readouterr().err
    (folder / "open_clip_config.json").write_text("{}")
    assert convert(tmp_path, folder, roberta) == 2
    assert "no model_cfg.vision_cfg" in capsys.readouterr().err
