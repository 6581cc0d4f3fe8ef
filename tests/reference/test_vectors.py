"""`sclds verify reference` on the project's own vectors, on others made on the spot, and on files that are wrong."""

import json
from pathlib import Path

import numpy as np
import pytest

from sclds.cli.main import main
from sclds.reference.vectors import TOLERANCE, compare_reference
from tests.vectors.make import make

VECTORS = Path(__file__).parents[1] / "vectors"


def _rewritten(tmp_path, change):
    with np.load(VECTORS / "image.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    change(arrays)
    np.savez(tmp_path / "changed.npz", **arrays)
    return str(tmp_path / "changed.npz")


@pytest.mark.parametrize("name", ["image", "clip"])
def test_own_vectors_pass(name, capsys):
    path = VECTORS / f"{name}.npz"
    assert path.stat().st_size < 300_000
    assert main(["verify", "reference", str(path)]) == 0
    assert "all within" in capsys.readouterr().out


def test_own_vectors_pass_by_a_wide_margin():
    comparisons = compare_reference(VECTORS / "image.npz") + compare_reference(VECTORS / "clip.npz")
    assert max(c.relative for c in comparisons) < TOLERANCE / 2
    names = {c.name for c in comparisons}
    assert {"loss_mltc_image", "loss_mltc_text", "loss_total", "out_vision_masked", "gradnorm.cl_temp"} <= names


SIZES = {
    "one_head": {"text_heads": 1, "fusion_heads": 1, "vision_heads": 1, "batch": 2},
    "many_heads": {"text_heads": 8, "fusion_heads": 16, "vision_heads": 4, "fusion_layers": 1},
    "long_texts": {"text_len": 20, "fusion_layers": 3, "text_layers": 2},
    "half_masked": {"mask_ratio": 0.5, "scl_temperature": 0.1, "contrastive_weight_in_total": 1.0},
    "one_patch_kept": {"mask_ratio": 0.93, "vision_blocks": 2},
    "long_clips": {"frames": 8, "max_frames": 8, "batch": 2, "mask_ratio": 0.6},
}


@pytest.mark.parametrize("name", SIZES)
def test_other_sizes_pass(name, tmp_path):
    # Not any seed: where the drawn contrastive gradient almost vanishes, its norm is rounding noise in fp32.
    make(tmp_path / "other.npz", SIZES[name], seed=6)
    assert max(c.relative for c in compare_reference(tmp_path / "other.npz")) < TOLERANCE


def test_json_holds_every_error(capsys):
    assert main(["verify", "reference", str(VECTORS / "clip.npz"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] is True
    assert found["tolerance"] == TOLERANCE
    assert {"name", "absolute", "relative", "passed"} == set(found["rows"][0])
    with np.load(VECTORS / "clip.npz") as archive:
        assert len(found["rows"]) == len([n for n in archive.files if n.startswith(("out_", "loss_", "gradnorm."))])


def test_a_corrupted_weight_fails(tmp_path, capsys):
    def change(arrays):
        arrays["state.cross_modal_text_layers.0.crossattention.self.query.weight"][0, 0] += 0.5

    path = _rewritten(tmp_path, change)
    assert main(["verify", "reference", path]) == 1
    assert "FAIL" in capsys.readouterr().out
    assert main(["verify", "reference", path, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["passed"] is False


def test_a_value_that_is_not_a_number_fails(tmp_path):
    path = _rewritten(tmp_path, lambda arrays: arrays["out_itm_logits"].fill(np.nan))
    assert main(["verify", "reference", path]) == 1


def _without(name):
    return lambda arrays: arrays.pop(name)


def _narrow(arrays):
    name = "state.cross_modal_text_transform.weight"
    arrays[name] = arrays[name][:-1]


FAULTS = {
    "no_pixels": _without("pixels"),
    "no_labels": _without("mlm_labels"),
    "no_partner_label": _without("itm_label"),
    "no_weight": _without("state.cross_modal_text_transform.weight"),
    "no_position_table": _without("state.vision_transformer.visual.positional_embedding"),
    "weight_of_another_shape": _narrow,
    "meta_is_not_json": lambda arrays: arrays.update(meta_json=np.array("{")),
    "meta_lacks_a_size": lambda arrays: arrays.update(meta_json=np.array("{}")),
    "unknown_weight": lambda arrays: arrays.update({"state.stray": np.zeros(1)}),
    "unknown_output": lambda arrays: arrays.update(out_stray=np.zeros(1)),
    "cut_inputs": lambda arrays: arrays.update(token_ids_scl=arrays["token_ids_scl"][:1]),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_wrong_file_is_a_sentence(name, tmp_path, capsys):
    assert main(["verify", "reference", _rewritten(tmp_path, FAULTS[name])]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert len(message.strip().splitlines()) == 1


@pytest.mark.parametrize("content", [b"", b"not an archive", None])
def test_a_file_that_is_no_archive_is_a_sentence(content, tmp_path, capsys):
    whole = (VECTORS / "image.npz").read_bytes()
    path = tmp_path / "broken.npz"
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    assert main(["verify", "reference", str(path)]) == 2
    assert "broken.npz" in capsys.readouterr().err


def test_a_missing_file_is_a_sentence(tmp_path, capsys):
    assert main(["verify", "reference", str(tmp_path / "none.npz")]) == 2
    assert "none.npz" in capsys.readouterr().err
