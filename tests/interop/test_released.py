"""Released checkpoints → ours → back, on random tensors under the released names."""

import pytest
import torch

from sclds.cli.main import main
from sclds.config.errors import CheckpointError
from sclds.interop.folder import build_model, parameter_shapes, read_folder, write_folder
from sclds.interop.released import _default_shape, architecture_of, from_released, read_released, to_released
from sclds.reference.published_names import to_published
from tests.train.synthetic import tiny_config

HEADS = ["vision.heads=2", "text.heads=2", "fusion.heads=2"]
TEMPORAL = "vision_transformer.visual.temporal_embed"


def released_state(temporal=True, dtype=torch.float32):
    """Return random tensors as a released checkpoint has them, unused parts included."""
    ours = build_model(tiny_config().model, seed=3).state_dict()
    state = to_published(ours, _default_shape)
    state[TEMPORAL] = state[TEMPORAL][None]
    if not temporal:
        del state[TEMPORAL]
    state["vision_transformer.decoder_embed.weight"] = torch.randn(8, 32)
    state["vision_transformer.mask_token"] = torch.randn(1, 1, 8)
    state["text_transformer.pooler.dense.weight"] = torch.randn(32, 32)
    state["text_transformer.embeddings.position_ids"] = torch.arange(24)[None]
    return {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor)
        for name, tensor in reversed(list(state.items()))
    }


def identical(a, b):
    return list(a) == list(b) and all(
        a[n].dtype == b[n].dtype and a[n].shape == b[n].shape and torch.equal(a[n], b[n]) for n in a
    )


@pytest.mark.parametrize("wrapping", ["state_dict", "model", None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_there_and_back_is_bit_identical(tmp_path, wrapping, dtype, capsys):
    """Every tensor, dtype, shape and the order come back, the parts that nothing reads included."""
    state = released_state(temporal=wrapping != "model", dtype=dtype)
    torch.save({wrapping: state, "epoch": 3} if wrapping else state, tmp_path / "released.ckpt")
    folder, back = tmp_path / "ours", tmp_path / "back.pt"
    assert main(["convert", "released", str(tmp_path / "released.ckpt"), str(folder), "--model", *HEADS]) == 0
    told = capsys.readouterr().out
    assert "text_transformer.pooler.dense.weight" in told
    assert ("temporal_embedding" in told) == (wrapping == "model")
    assert main(["convert", "to-released", str(folder), str(back)]) == 0
    assert identical(read_released(back), state)


def test_the_architecture_is_read_off_the_tensors():
    wanted = tiny_config().model
    assert architecture_of(released_state(), HEADS) == wanted.model_copy(
        update={
            "text": wanted.text.model_copy(update={"dropout": 0.1}),
            "fusion": wanted.fusion.model_copy(update={"dropout": 0.1}),
        }
    )


def test_names_are_listed_and_refused_unless_allowed(tmp_path, capsys):
    state = released_state()
    del state["itm_score.fc.bias"]
    state["nlvr2_classifier.weight"] = torch.ones(2, 2)
    file, folder = tmp_path / "released.pt", tmp_path / "ours"
    torch.save({"state_dict": state}, file)
    assert main(["convert", "released", str(file), str(folder), "--model", *HEADS]) == 2
    told = capsys.readouterr().err
    assert "itm_score.bias" in told
    assert "nlvr2_classifier.weight" in told
    assert not folder.exists()
    allowed = ["--allow", "itm_score.bias", "--allow", "nlvr2_classifier.weight"]
    assert main(["convert", "released", str(file), str(folder), "--model", *HEADS, *allowed]) == 0
    assert read_folder(folder).origin.initialized == ["itm_score.bias"]
    assert identical(to_released(read_folder(folder)), state)


def test_a_part_of_a_joined_parameter_is_kept_when_another_is_missing():
    state = released_state()
    del state["text_transformer.encoder.layer.0.attention.self.key.bias"]
    folder = from_released(state, architecture_of(state, HEADS), ["text_encoder.layers.0.attention.qkv.bias"])
    assert identical(to_released(folder), state)


class Malicious:
    def __reduce__(self):
        return (print, ("ran",))


def test_files_that_cannot_be_trusted_or_read_are_sentences(tmp_path, capsys):
    files = {"code": {"state_dict": {"a": Malicious()}}, "empty": {}, "numbers": {"state_dict": {"a": 3}}}
    for name, content in files.items():
        torch.save(content, tmp_path / name)
    (tmp_path / "text").write_text("hello")
    whole = tmp_path / "whole"
    torch.save({"state_dict": released_state()}, whole)
    (tmp_path / "truncated").write_bytes(whole.read_bytes()[:5000])
    for name in (*files, "text", "truncated", "absent"):
        assert main(["convert", "released", str(tmp_path / name), str(tmp_path / "out")]) == 2, name
        told = capsys.readouterr()
        assert told.err.startswith(f"error: {tmp_path / name}"), told.err
        assert "ran" not in told.out
    assert main(["convert", "released", str(whole), str(tmp_path / "out"), "--model", "text.haeds=4"]) == 2
    assert "haeds" in capsys.readouterr().err
    state = released_state()
    state["itm_score.fc.weight"] = torch.ones(3, 3)
    with pytest.raises(CheckpointError, match=r"itm_score.fc.weight has shape \(3, 3\)"):
        from_released(state, architecture_of(state, HEADS))


def test_damaged_folders_are_sentences(tmp_path):
    state = released_state()
    folder = from_released(state, architecture_of(state, HEADS))
    write_folder(tmp_path / "a", folder)
    with pytest.raises(CheckpointError, match="exists already"):
        write_folder(tmp_path / "a", folder)
    weights = (tmp_path / "a" / "model.safetensors").read_bytes()
    (tmp_path / "a" / "model.safetensors").write_bytes(weights[:-100])
    with pytest.raises(CheckpointError, match="is truncated: it has"):
        read_folder(tmp_path / "a")
    (tmp_path / "a" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
        read_folder(tmp_path / "a")


def test_shapes_are_known_without_memory():
    config = tiny_config().model
    shapes = parameter_shapes(config)
    assert shapes == {name: p.shape for name, p in build_model(config).named_parameters()}
