"""Encoders of transformers against ours, on small random models: hidden states are equal, other models a sentence."""

import json

import pytest
import torch
import transformers
from torch.nn.functional import pad
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaModel,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from sclds.batch import TextViews
from sclds.batch.attention_plan import plan_attention
from sclds.cli.main import main
from sclds.interop.encoders import from_encoders, from_models
from sclds.interop.folder import build_model, read_folder
from sclds.interop.preprocessing import CLIP_NORMALIZATION
from tests.model.towers import encode_images

PATCH, NATIVE = 8, 32
FUSION = ["fusion.width=32", "fusion.heads=2", "fusion.layers=1", "projection=16"]
SIZES = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2}


def small_clip(**changes):
    torch.manual_seed(0)
    return CLIPVisionModel(CLIPVisionConfig(**(SIZES | changes), patch_size=PATCH, image_size=NATIVE)).eval()


def small_siglip(**changes):
    torch.manual_seed(0)
    return SiglipVisionModel(SiglipVisionConfig(**(SIZES | changes), patch_size=PATCH, image_size=NATIVE)).eval()


def small_siglip2(**changes):
    torch.manual_seed(0)
    config = Siglip2VisionConfig(**(SIZES | changes), patch_size=PATCH, num_patches=(NATIVE // PATCH) ** 2)
    return Siglip2VisionModel(config).eval()


def small_roberta(kind=RobertaModel, **changes):
    torch.manual_seed(1)
    sizes = {"hidden_size": 48, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = {"vocab_size": 50, "max_position_embeddings": 30, "type_vocab_size": 1, "pad_token_id": 1} | changes
    settings = XLMRobertaConfig if kind is XLMRobertaModel else RobertaConfig
    return kind(settings(**sizes, **config, layer_norm_eps=1e-5)).eval()


def perturbed(model):
    """Give biases and norms values too, so that a mix-up of names shows."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def encoder_of(folder):
    return build_model(folder.config, folder.weights).eval().vision_encoder


@pytest.mark.parametrize("size", [NATIVE, 48])
@pytest.mark.parametrize("changes", [{}, {"hidden_act": "gelu", "num_attention_heads": 4}], ids=["quick_gelu", "gelu"])
def test_vision_equals_clip_without_its_last_block(size, changes):
    """Hidden states agree, at the native resolution and at another, whose positions are interpolated."""
    clip = perturbed(small_clip(**changes))
    folder = from_models(clip, small_roberta(), FUSION)
    pixels = torch.randn(3, 3, size, size)
    with torch.no_grad():
        hidden = clip(pixels, output_hidden_states=True, interpolate_pos_encoding=size != NATIVE).hidden_states
        norm = next(m for name, m in clip.named_modules() if name.endswith("post_layernorm"))
        expected = norm(hidden[-2])
        found = encode_images(encoder_of(folder), pixels, PATCH)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_vision_equals_siglip_and_its_pooling_is_cls():
    siglip = perturbed(small_siglip())
    folder = from_models(siglip, small_roberta(), FUSION)
    pixels = torch.randn(3, 3, NATIVE, NATIVE)
    with torch.no_grad():
        expected = siglip(pixels)
        found = encode_images(encoder_of(folder), pixels, PATCH)
    torch.testing.assert_close(found[:, 1:], expected.last_hidden_state, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[:, 0], expected.pooler_output, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [NATIVE, 48, 24])
def test_vision_equals_siglip2_of_native_aspect(size):
    """Its patches have their channels last, and its positions are interpolated with antialias."""
    siglip = perturbed(small_siglip2(intermediate_size=80))
    folder = from_models(siglip, small_roberta(), FUSION)
    pixels, grid = torch.randn(2, 3, size, size), size // PATCH
    patches = pixels.unflatten(3, (grid, PATCH)).unflatten(2, (grid, PATCH)).permute(0, 2, 4, 3, 5, 1).flatten(3)
    with torch.no_grad():
        mask = torch.ones(2, grid**2, dtype=torch.long)
        expected = siglip(patches.flatten(1, 2), mask, torch.tensor([[grid, grid]] * 2))
        found = encode_images(encoder_of(folder), pixels, PATCH)
    torch.testing.assert_close(found[:, 1:], expected.last_hidden_state, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[:, 0], expected.pooler_output, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [RobertaModel, XLMRobertaModel])
def test_text_equals_roberta(kind):
    roberta = perturbed(small_roberta(kind))
    folder = from_models(small_clip(), roberta, FUSION)
    assert folder.config.text.type == ("roberta" if kind is RobertaModel else "xlm_roberta")
    lengths = torch.tensor([9, 4, 12])
    ids = torch.ones(3, 12, dtype=torch.long)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(3, 50, (length,))
    mask = ids != 1
    cu_seqlens = pad(lengths.cumsum(0), (1, 0)).int()
    positions = torch.cat([torch.arange(n) + 2 for n in lengths])
    views = TextViews(ids[mask], positions, cu_seqlens[:-1].long(), plan_attention(cu_seqlens, cu_seqlens), ("t0",))
    with torch.no_grad():
        expected = roberta(ids, mask.long()).last_hidden_state[mask]
        found = build_model(folder.config, folder.weights).eval().text_encoder(views)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def converted(tmp_path, vision, text, *more):
    names = ["--vision", str(vision), "--text", str(text)]
    return main(["convert", "encoders", str(tmp_path / "out"), *names, *more])


def test_folders_of_hugging_face_convert_and_the_rest_is_drawn_by_seed(tmp_path, capsys):
    small_clip().save_pretrained(tmp_path / "clip")
    small_roberta().save_pretrained(tmp_path / "roberta")
    assert converted(tmp_path, tmp_path / "clip", tmp_path / "roberta", "--seed", "5", "--model", *FUSION) == 0
    told = capsys.readouterr().out
    assert "block 2 of the vision encoder" in told
    assert "text pooler.dense.weight" in told
    folder = read_folder(tmp_path / "out")
    assert (folder.config.vision.layers, folder.config.vision.heads, folder.config.text.heads) == (2, 2, 4)
    drawn = build_model(folder.config, seed=5).state_dict()
    assert all(torch.equal(folder.weights[name], drawn[name]) for name in folder.origin.initialized)
    assert "cross_modal_text_layers.0.mlp.up.weight" in folder.origin.initialized
    assert not any(".blocks." in name for name in folder.origin.initialized)


@pytest.mark.parametrize("small", [small_siglip, small_siglip2])
def test_folders_of_siglip_and_xlm_roberta_convert(tmp_path, small):
    model = small()
    model.save_pretrained(tmp_path / "siglip")
    small_roberta(XLMRobertaModel).save_pretrained(tmp_path / "xlm")
    assert converted(tmp_path, tmp_path / "siglip", tmp_path / "xlm", "--model", *FUSION) == 0
    folder = read_folder(tmp_path / "out")
    assert (folder.config.vision.type, folder.config.vision.layers) == ("siglip2", 3)
    assert (folder.config.vision.activation, folder.config.vision.layer_norm_eps) == ("gelu_tanh", 1e-6)
    assert (folder.config.vision.pretrained_image_size, folder.config.text.type) == (NATIVE, "xlm_roberta")
    assert torch.equal(folder.weights["vision_encoder.embedding.probe"], model.state_dict()["head.probe"].flatten())
    assert {name for name in folder.origin.initialized if name.startswith("vision_encoder.")} == {
        "vision_encoder.embedding.temporal_embedding",
        "vision_encoder.embedding.mask_token",
    }


@pytest.mark.parametrize(
    ("small", "processor", "mean"),
    [
        (small_clip, None, CLIP_NORMALIZATION[0]),
        (small_siglip, None, (0.5, 0.5, 0.5)),
        (small_siglip2, None, (0.5, 0.5, 0.5)),
        (small_clip, {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.4, 0.4]}, (0.1, 0.2, 0.3)),
    ],
)
def test_weights_keep_how_their_encoders_were_shown_images(tmp_path, capsys, small, processor, mean):
    """By the image processor beside them, else as their kind was published; a tokenizer that is not there is named."""
    small().save_pretrained(tmp_path / "vision")
    if processor is not None:
        settings = processor | {"image_processor_type": "CLIPImageProcessor"}
        (tmp_path / "vision" / "preprocessor_config.json").write_text(json.dumps(settings))
    small_roberta().save_pretrained(tmp_path / "roberta")
    assert converted(tmp_path, tmp_path / "vision", tmp_path / "roberta", "--model", *FUSION) == 0
    assert f"The tokenizer '{tmp_path / 'roberta'}' could not be loaded" in capsys.readouterr().out
    folder = read_folder(tmp_path / "out")
    assert (folder.preprocessing.mean, folder.preprocessing.image_size) == (mean, NATIVE)
    assert (folder.preprocessing.tokenizer, folder.tokenizer) == (str(tmp_path / "roberta"), {})


def test_siglip_has_no_released_form(tmp_path, capsys):
    small_siglip().save_pretrained(tmp_path / "siglip")
    small_roberta().save_pretrained(tmp_path / "roberta")
    assert converted(tmp_path, tmp_path / "siglip", tmp_path / "roberta", "--model", *FUSION) == 0
    assert main(["convert", "to-released", str(tmp_path / "out"), str(tmp_path / "back.pt")]) == 2
    assert "released checkpoints have CLIP's vision encoder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("vision", "text", "told"),
    [
        (small_clip(hidden_act="relu"), small_roberta(), "is relu, expected quick_gelu or gelu"),
        (small_siglip(vision_use_head=False), small_roberta(), "no attention pooling"),
        (small_clip(), small_roberta(pad_token_id=0), "its pad_token_id is 0, expected 1"),
        (small_clip(), small_roberta(hidden_act="relu"), "its activation is relu, expected gelu"),
        (small_roberta(), small_roberta(), "is a roberta model; as vision encoder give one of clip"),
        (small_clip(), small_clip(), "is a clip_vision_model model; as text encoder give one of roberta, xlm-roberta"),
        (small_clip(num_hidden_layers=1), small_roberta(), "no block left after the last 1 is dropped"),
    ],
)
def test_encoders_that_compute_something_else_are_refused(tmp_path, capsys, vision, text, told):
    vision.save_pretrained(tmp_path / "vision")
    text.save_pretrained(tmp_path / "text")
    assert converted(tmp_path, tmp_path / "vision", tmp_path / "text") == 2
    assert told in capsys.readouterr().err


def test_a_folder_without_a_model_is_a_sentence(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    small_roberta().save_pretrained(tmp_path / "roberta")
    assert converted(tmp_path, tmp_path / "empty", tmp_path / "roberta") == 2
    told = capsys.readouterr().err
    assert "holds no vision encoder that can be read" in told
    assert "open_clip_config.json" in told


def test_partial_weights_are_a_sentence(tmp_path, capsys):
    """The configuration promises more blocks than the file has."""
    small_siglip().save_pretrained(tmp_path / "siglip")
    small_roberta().save_pretrained(tmp_path / "roberta")
    settings = json.loads((tmp_path / "siglip" / "config.json").read_text())
    (tmp_path / "siglip" / "config.json").write_text(json.dumps(settings | {"num_hidden_layers": 4}))
    assert converted(tmp_path, tmp_path / "siglip", tmp_path / "roberta") == 2
    told = capsys.readouterr().err
    assert "lacks encoder.layers.3.layer_norm1.bias" in told
    assert "no complete SiglipVisionModel" in told


def test_whole_models_give_their_encoders(tmp_path):
    """Hub folders hold CLIP with its text tower, and RoBERTa with its language-model head and without a pooler."""
    clip, roberta = small_clip(), small_roberta()
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    whole = CLIPModel(CLIPConfig(vision_config=clip.config.to_dict(), text_config=tower | {"vocab_size": 20}))
    whole.save_pretrained(tmp_path / "clip")
    RobertaForMaskedLM(roberta.config).save_pretrained(tmp_path / "roberta")
    folder = from_encoders(str(tmp_path / "clip"), str(tmp_path / "roberta"), FUSION)
    state = {name: tensor for name, tensor in whole.state_dict().items() if name.startswith("vision_model.")}
    expected = state["vision_model.encoder.layers.1.mlp.fc1.weight"]
    assert torch.equal(folder.weights["vision_encoder.blocks.1.mlp.up.weight"], expected)
    assert folder.config.vision.layers == 2


def test_whole_siglip_gives_its_vision_encoder(tmp_path):
    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    settings = transformers.SiglipConfig(
        vision_config=small_siglip().config.to_dict(), text_config=text | {"vocab_size": 20}
    )
    transformers.SiglipModel(settings).save_pretrained(tmp_path / "siglip")
    small_roberta().save_pretrained(tmp_path / "roberta")
    assert from_encoders(str(tmp_path / "siglip"), str(tmp_path / "roberta"), FUSION).config.vision.type == "siglip2"
