"""ViLT and BridgeTower, which are no configurations of this architecture: said by name, in a sentence, everywhere."""

import pytest
import torch
from transformers import BridgeTowerConfig, BridgeTowerModel, ViltConfig, ViltModel

import sclds
from sclds.cli.main import main
from sclds.config.errors import UserError

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def vilt():
    return ViltModel(ViltConfig(**SMALL, vocab_size=50, image_size=32, patch_size=16))


def bridge_tower():
    small = SMALL | {"hidden_size": 64}  # a head of its vision encoder has 64 channels
    text = small | {"vocab_size": 50, "max_position_embeddings": 40}
    vision = {"hidden_size": 64, "num_hidden_layers": 2, "image_size": 32, "patch_size": 16}
    return BridgeTowerModel(BridgeTowerConfig(**small, text_config=text, vision_config=vision))


@pytest.mark.parametrize(
    ("make", "what", "why"),
    [
        (vilt, "is a ViLT model", "one stream for words and patches where this method has two encoders"),
        (
            bridge_tower,
            "is a BridgeTower model",
            "bridge layers between encoders and fusion, which this method has not",
        ),
    ],
)
def test_relatives_are_named_and_refused(tmp_path, capsys, make, what, why):
    model = make()
    model.save_pretrained(tmp_path / "folder")
    torch.save({"state_dict": model.state_dict()}, tmp_path / "bare.ckpt")
    torch.save({"state_dict": {f"model.{n}": t for n, t in model.state_dict().items()}}, tmp_path / "wrapped.ckpt")
    out = str(tmp_path / "out")
    places = [tmp_path / "folder", tmp_path / "folder" / "model.safetensors", tmp_path / "bare.ckpt"]
    for place in (*places, tmp_path / "wrapped.ckpt"):
        told = []
        for command in (
            ["convert", "released", str(place), out],
            ["train", "--config", "quickstart", f"model.init_from={place}", f"run_dir={tmp_path / 'run'}"],
        ):
            assert main(command) == 2, command
            told.append(capsys.readouterr().err)
        with pytest.raises(UserError) as fault:
            sclds.load(place)
        for sentence in (*told, str(fault.value)):
            assert what in sentence
            assert why in sentence
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "run").exists()
