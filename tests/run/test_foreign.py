"""Weights of others and damaged files: a sentence that says what they are, and what can be done with them."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sclds.cli.main import main
from sclds.config.errors import CheckpointError
from sclds.run.foreign import damage, foreign, refuse_foreign, tensor_names

BY_TYPE = {
    "clip": "sclds convert encoders OUT --vision",
    "siglip": "sclds convert encoders OUT --vision",
    "siglip2_vision_model": "sclds convert encoders OUT --vision",
    "roberta": "sclds convert encoders OUT --text",
    "bert": "give roberta or xlm-roberta",
    "vilt": "one stream for words and patches",
    "bridgetower": "bridge layers",
    "blip": "fusion in the text stream alone",
    "scl": "sclds convert from-huggingface",
    "flava": "a Hugging Face model of type flava",
}
METER = ["cross_modal_text_layers.0.a", "cross_modal_image_layers.0.a"]
BY_NAMES = {
    "a released SCL checkpoint": [*METER, "vision_transformer.visual.conv1.weight"],
    "a METER checkpoint": [*METER, "vit_model.visual.conv1.weight", "text_transformer.embeddings.a"],
    "a METER checkpoint with a Swin": [*METER, "vit_model.layers.0.blocks.0.a"],
    "a BridgeTower model": [*METER, "vit_model.visual.conv1.weight", "cross_modal_text_link_tower.0.a"],
    "a ViLT model": ["transformer.blocks.0.a", "text_embeddings.word_embeddings.weight"],
    "a BLIP model": ["visual_encoder.blocks.0.a", "text_decoder.a"],
    "an ALBEF model": [
        "visual_encoder.blocks.0.a",
        "visual_encoder_m.blocks.0.a",
        "text_encoder_m.a",
        "text_encoder.a",
    ],
    "a model of open_clip": ["visual.transformer.resblocks.0.a", "transformer.resblocks.0.a"],
    "a CLIP or SigLIP model": ["vision_model.encoder.layers.0.a", "text_model.a"],
    "a BERT model": ["bert.embeddings.a"],
    "a text encoder": ["roberta.embeddings.word_embeddings.weight", "roberta.encoder.layer.0.a"],
}


@pytest.mark.parametrize("kind", BY_TYPE)
def test_folders_of_hugging_face_are_known_by_their_type(tmp_path, kind):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(CheckpointError) as fault:
        refuse_foreign(tmp_path, "a folder", "model.init_from")
    told = str(fault.value)
    assert BY_TYPE[kind] in told
    assert told.startswith(f"model.init_from: {tmp_path} is a")


@pytest.mark.parametrize("what", BY_NAMES)
@pytest.mark.parametrize("form", ["torch", "lightning", "safetensors", "in a folder"])
def test_files_are_known_by_the_names_of_their_tensors(tmp_path, what, form):
    state = {name: torch.zeros(1) for name in BY_NAMES[what]}
    path = tmp_path / ("model.safetensors" if form == "safetensors" else "model.ckpt")
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 1} if form == "lightning" else state, path)
    found = foreign(tmp_path if form == "in a folder" else path)
    assert found is not None
    assert found.what.startswith(what)


def test_a_folder_of_open_clip_and_a_run_are_known(tmp_path):
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "open_clip_config.json").write_text("{}")
    assert "--vision" in foreign(tmp_path / "clip").remedy
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").touch()
    assert f"sclds convert run {tmp_path / 'run'} OUT" in foreign(tmp_path / "run").remedy


class Code:
    def __reduce__(self):
        return (print, ("ran",))


def test_names_are_read_without_running_anything(tmp_path, capsys):
    torch.save({"state_dict": {"vilt.embeddings.text_embeddings.a": Code()}}, tmp_path / "a.pt")
    assert "vilt.embeddings.text_embeddings.a" in tensor_names(tmp_path / "a.pt")
    assert capsys.readouterr().out == ""


def faulty(path):
    """Files that are not the weights that their names promise, and what is told of each."""
    save_file({"a": torch.zeros(100)}, path / "whole.safetensors")
    whole = (path / "whole.safetensors").read_bytes()
    torch.save({"a": torch.zeros(100)}, path / "whole.pt")
    return {
        "empty.bin": (b"", "is empty (0 bytes)"),
        "pointer.bin": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "is a Git LFS pointer"),
        "pointer.safetensors": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
        "page.bin": (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "is a web page"),
        "page.safetensors": (b"<html lang='en'>", "is a web page"),
        "body.safetensors": (whole[:-10], "is truncated: it has"),
        "head.safetensors": (whole[:20], "is truncated: it has"),
        "noise.safetensors": (b"nothing", "has no header"),
        "cut.pt": ((path / "whole.pt").read_bytes()[:-30], "is truncated"),
    }


def test_damaged_files_are_sentences(tmp_path):
    (tmp_path / "folder").mkdir()
    for name, (content, told) in faulty(tmp_path).items():
        file = tmp_path / "folder" / name
        file.write_bytes(content)
        assert damage(file).startswith(f"{file} {told}"), damage(file)
        assert damage(tmp_path / "folder") == damage(file)
        file.unlink()
    assert damage(tmp_path / "whole.safetensors") is damage(tmp_path / "whole.pt") is None


def test_a_shard_that_is_missing_is_named(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert "lacks model-00002-of-00002.safetensors of the 2 files" in damage(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    assert "is no index of shards" in damage(tmp_path)


def test_commands_and_runs_say_it(tmp_path, capsys):
    """`model.init_from`, `sclds convert released` and `sclds convert encoders`, each with exit code 2."""
    (tmp_path / "vilt").mkdir()
    (tmp_path / "vilt" / "config.json").write_text('{"model_type": "vilt"}')
    (tmp_path / "vilt" / "model.bin").write_bytes(b"<html>")
    out, run = str(tmp_path / "out"), f"run_dir={tmp_path / 'run'}"
    for told in ("is a web page", "is a ViLT model"):
        for command in (
            ["train", "--config", "quickstart", f"model.init_from={tmp_path / 'vilt'}", run],
            ["convert", "released", str(tmp_path / "vilt"), out],
            ["convert", "huggingface", str(tmp_path / "vilt"), out],
        ):
            assert main(command) == 2
            assert told in capsys.readouterr().err, command
        (tmp_path / "vilt" / "model.bin").unlink(missing_ok=True)
    assert main(["convert", "encoders", out, "--vision", str(tmp_path / "vilt"), "--text", "roberta-base"]) == 2
    assert "is a vilt model; as vision encoder give one of clip" in capsys.readouterr().err


def test_the_page_lists_what_is_told(tmp_path):
    page = (Path(__file__).resolve().parents[2] / "docs" / "faults.md").read_text()
    rows = re.findall(r"^\| .* \| `(.*)` \|$", page.split("### Weights")[1].split("\n\n")[1], re.MULTILINE)
    told = [sentence for _, sentence in faulty(tmp_path).values()]
    assert len(rows) >= 6
    assert [sentence for sentence in told if not any(row.startswith(sentence) for row in rows)] == []
