"""CLIP and RoBERTa of transformers against ours, on small random models."""

import pytest
import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaModel,
)

from sclds.cli.main import main
from sclds.interop.encoders import from_hugging_face, from_models
from sclds.interop.folder import build_model, read_folder
from sclds.interop.huggingface import patchify
from sclds.model.vision import VisionEncoder

PATCH, NATIVE = 8, 32
FUSION = ["fusion.width=32", "fusion.heads=2", "fusion.layers=1", "projection=16"]


def small_clip(**changes):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2}
    return CLIPVisionModel(CLIPVisionConfig(**sizes, patch_size=PATCH, image_size=NATIVE, **changes)).eval()


def small_roberta(**changes):
    torch.manual_seed(1)
    sizes = {"hidden_size": 48, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = {"vocab_size": 50, "max_position_embeddings": 30, "type_vocab_size": 1, "pad_token_id": 1} | changes
    return RobertaModel(RobertaConfig(**sizes, **config, layer_norm_eps=1e-5)).eval()


def perturbed(model):
    """Give biases and norms values too, so that a mix-up of names shows."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def encode_pictures(encoder: VisionEncoder, pixels):
    """Run our vision encoder on complete pictures; return (B, tokens, C)."""
    count, grid = len(pixels), pixels.shape[-1] // PATCH
    tokens = grid**2 + 1
    source = torch.stack([torch.cat((torch.tensor([-1]), torch.arange(grid**2) + i * grid**2)) for i in range(count)])
    batch = {
        "patches": patchify(pixels, PATCH),
        "vision_source": source.flatten(),
        "vision_position": torch.arange(tokens).repeat(count),
        "vision_frame": torch.full((count * tokens,), -1),
        "frame_cu": torch.arange(count + 1, dtype=torch.int32) * tokens,
        "clip_cu": torch.zeros(1, dtype=torch.int32),
        "clip_cls_cu": torch.zeros(1, dtype=torch.int32),
        "clip_cls": torch.zeros(0, dtype=torch.long),
        "clip_start": count * tokens,
    }
    encoder.embedding.grids = (grid,)
    return encoder(batch).unflatten(0, (count, tokens))


@pytest.mark.parametrize("size", [NATIVE, 48])
def test_vision_equals_clip_without_its_last_block(size):
    """Hidden states agree, at the native resolution and at another, whose positions are interpolated."""
    clip = perturbed(small_clip())
    folder = from_models(clip, small_roberta(), FUSION)
    pixels = torch.randn(3, 3, size, size)
    with torch.no_grad():
        hidden = clip(pixels, output_hidden_states=True, interpolate_pos_encoding=size != NATIVE).hidden_states
        norm = next(m for name, m in clip.named_modules() if name.endswith("post_layernorm"))
        wanted = norm(hidden[-2])
        found = encode_pictures(build_model(folder.config, folder.weights).eval().vision_encoder, pixels)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_text_equals_roberta():
    roberta = perturbed(small_roberta())
    folder = from_models(small_clip(), roberta, FUSION)
    lengths = [9, 4, 12]
    ids = torch.ones(3, 12, dtype=torch.long)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(3, 50, (length,))
    mask = ids != 1
    batch = {
        "text_ids": ids[mask],
        "text_positions": torch.cat([torch.arange(n) + 2 for n in lengths]),
        "text_cu": torch.tensor([0, 9, 13, 25], dtype=torch.int32),
    }
    with torch.no_grad():
        wanted = roberta(ids, mask.long()).last_hidden_state[mask]
        found = build_model(folder.config, folder.weights).eval().text_encoder(batch)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_folders_of_hugging_face_convert_and_the_rest_is_drawn_by_seed(tmp_path, capsys):
    small_clip().save_pretrained(tmp_path / "clip")
    small_roberta().save_pretrained(tmp_path / "roberta")
    names = ["--vision", str(tmp_path / "clip"), "--text", str(tmp_path / "roberta")]
    assert main(["convert", "encoders", str(tmp_path / "a"), *names, "--seed", "5", "--model", *FUSION]) == 0
    told = capsys.readouterr().out
    assert "block 2 of the vision encoder" in told
    assert "text pooler.dense.weight" in told
    folder = read_folder(tmp_path / "a")
    assert (folder.config.vision.layers, folder.config.vision.heads, folder.config.text.heads) == (2, 2, 4)
    drawn = build_model(folder.config, seed=5).state_dict()
    assert all(torch.equal(folder.weights[name], drawn[name]) for name in folder.origin.initialised)
    assert "cross_modal_text_layers.0.mlp.up.weight" in folder.origin.initialised
    assert not any(".blocks." in name for name in folder.origin.initialised)


@pytest.mark.parametrize(
    ("clip", "roberta", "told"),
    [
        ({"hidden_act": "gelu"}, {}, "the method has quick_gelu"),
        ({}, {"pad_token_id": 0}, "RoBERTa's is 1"),
        ({}, {"hidden_act": "relu"}, "the method has gelu"),
    ],
)
def test_encoders_that_compute_something_else_are_refused(tmp_path, capsys, clip, roberta, told):
    small_clip(**clip).save_pretrained(tmp_path / "clip")
    small_roberta(**roberta).save_pretrained(tmp_path / "roberta")
    names = ["--vision", str(tmp_path / "clip"), "--text", str(tmp_path / "roberta")]
    assert main(["convert", "encoders", str(tmp_path / "a"), *names]) == 2
    assert told in capsys.readouterr().err


def test_a_folder_without_a_model_is_a_sentence(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    small_roberta().save_pretrained(tmp_path / "roberta")
    names = ["--vision", str(tmp_path / "empty"), "--text", str(tmp_path / "roberta")]
    assert main(["convert", "encoders", str(tmp_path / "a"), *names]) == 2
    assert "cannot be loaded as CLIPVisionModel" in capsys.readouterr().err


def test_whole_models_give_their_encoders(tmp_path):
    """Hub folders hold CLIP with its text tower, and RoBERTa with its language-model head and without a pooler."""
    clip, roberta = small_clip(), small_roberta()
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    whole = CLIPModel(CLIPConfig(vision_config=clip.config.to_dict(), text_config=tower | {"vocab_size": 20}))
    whole.save_pretrained(tmp_path / "clip")
    RobertaForMaskedLM(roberta.config).save_pretrained(tmp_path / "roberta")
    folder = from_hugging_face(str(tmp_path / "clip"), str(tmp_path / "roberta"), FUSION)
    state = {name: tensor for name, tensor in whole.state_dict().items() if name.startswith("vision_model.")}
    wanted = state["vision_model.encoder.layers.1.mlp.fc1.weight"]
    assert torch.equal(folder.weights["vision_encoder.blocks.1.mlp.up.weight"], wanted)
    assert folder.config.vision.layers == 2
