"""`model.init_from` reads the folders that `sclds convert` writes, and says what does not fit."""

import json
import shutil

import pytest
import torch
from omegaconf import OmegaConf

from sclds.config.errors import CheckpointError, ConfigError
from sclds.config.reading import dump_config, load_config
from sclds.data.tokenizer import load_tokenizer, train_tokenizer
from sclds.interop.folder import ModelFolder, Origin, build_model, read_folder, write_folder
from sclds.interop.preprocessing import HALF_NORMALIZATION, files_of, of_encoders
from sclds.train import engine
from sclds.train.flat_blocks import materialize
from sclds.train.startup import checked_start
from tests.train.synthetic import tiny_config


class OneProcess:
    rank = 0
    world_size = 1
    device = torch.device("cpu")


def built(config):
    model = engine.model_outline(config, load_tokenizer("embedded"))
    materialize(model, {}, sharded=False)
    engine.fill_parameters(model, engine.InitialWeights(config, model), OneProcess(), sharded=False)
    return model


def start(folder, **changes):
    model = tiny_config().model.model_dump(mode="json")
    for section, values in changes.items():
        model[section] |= values
    return tiny_config(model=model | {"init_from": str(folder)}, engine={"precision": "fp32", "zero_stage": 0})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("init") / "weights"
    model = tiny_config().model
    write_folder(path, ModelFolder(model, build_model(model, seed=9).state_dict(), Origin("test")))
    return path


def test_a_run_starts_from_a_folder(folder):
    wanted = build_model(tiny_config().model, seed=9).state_dict()
    found = built(start(folder)).state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    assert torch.equal(
        built(start(folder / "model.safetensors")).state_dict()["itm_score.bias"], found["itm_score.bias"]
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"text": {"layers": 1}}, "are unknown"),
        ({"text": {"layers": 3}}, "are missing"),
        ({"vision": {"max_frames": 4}}, "have another shape"),
    ],
)
def test_weights_that_do_not_fit_are_refused(folder, changes, told):
    with pytest.raises(CheckpointError, match=told):
        built(start(folder, **changes))


def test_damaged_and_absent_weights_are_sentences(folder, tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        built(start(tmp_path / "absent"))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-50])
    with pytest.raises(CheckpointError, match="is truncated: it has"):
        built(start(tmp_path))


def settings_of(folder, tmp_path, *overrides, **sections):
    """A configuration file with the shipped quickstart's data, and other sections as given."""
    tree = OmegaConf.to_container(OmegaConf.load("configs/quickstart.yaml"))
    tree = {key: tree[key] for key in ("name", "data", "batch")} | sections | {"run_dir": str(tmp_path / "run")}
    tree["data"] = {key: value for key, value in tree["data"].items() if key not in ("mean", "std", "tokenizer")}
    tree["data"] |= {"image_size": 16, "video_size": 16, "max_text_tokens": 20}
    (tmp_path / "c.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(tree)))
    return tmp_path / "c.yaml", [f"model.init_from={folder}", *overrides]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder that also says how its weights were shown their data."""
    path = tmp_path_factory.mktemp("init") / "weights"
    model = tiny_config().model
    model = model.model_copy(update={"text": model.text.model_copy(update={"vocab_size": 4096})})
    shown = of_encoders(model, HALF_NORMALIZATION, "embedded")
    files = files_of("embedded", shown.max_text_tokens, 4096)
    weights = build_model(model, seed=9).state_dict()
    write_folder(path, ModelFolder(model, weights, Origin("test"), preprocessing=shown, tokenizer=files))
    return path


def test_a_configuration_that_leaves_the_model_out_gets_the_folders(whole, tmp_path):
    start = checked_start(*settings_of(whole, tmp_path), world_size=1)
    assert start.config.model == read_folder(whole).config.model_copy(update={"init_from": str(whole)})
    assert (start.config.data.mean, start.config.data.std) == HALF_NORMALIZATION
    assert start.config.data.tokenizer == "embedded"
    assert load_config(*settings_of(whole / "model.safetensors", tmp_path)).model.text.layers == 2


def test_what_the_configuration_says_is_equal_or_refused_with_both_values(whole, tmp_path):
    equal = ["model.vision.width=32", "model.text.vocab_size=0", "model.text.dropout=0.3", "data.mean=[0.1,0.1,0.1]"]
    config = checked_start(*settings_of(whole, tmp_path, *equal), world_size=1).config
    assert (config.model.text.dropout, config.model.text.vocab_size, config.data.mean) == (0.3, 4096, (0.1,) * 3)
    wrong = ["model.vision.layers=3", "model.fusion.heads=4", "model.projection=8", "schedule.steps=0"]
    with pytest.raises(ConfigError) as fault:
        checked_start(*settings_of(whole, tmp_path, *wrong), world_size=1)
    told = "\n".join(fault.value.problems)
    for part in ("vision.layers=3 differs from 2", "fusion.heads=4 differs from 2", "projection=8 differs from 16"):
        assert f"model.{part}" in told
    assert "schedule.steps" in told
    assert len(fault.value.problems) == 4


def test_a_run_that_goes_on_does_not_need_the_folder(whole, tmp_path):
    file, _ = settings_of(whole, tmp_path)
    moved = shutil.copytree(whole, tmp_path / "moved")
    config = load_config(file, [f"model.init_from={moved}"])
    folder = tmp_path / "run" / "checkpoints" / "step-0000005"
    folder.mkdir(parents=True)
    state = {"step": 5, "world_size": 1, "config": config.model_dump(mode="json")}
    (folder / "state.json").write_text(json.dumps(state))
    (tmp_path / "run" / "config.yaml").write_text(dump_config(config))
    (moved / "model.safetensors").unlink()
    assert load_config(tmp_path / "run" / "config.yaml") == config
    start = checked_start(tmp_path / "run" / "config.yaml", ["data.max_bad_share=0.5"], 1)
    assert start.checkpoint.step == 5


def test_a_tokenizer_with_other_words_than_the_weights_is_refused(whole, tmp_path):
    other = tmp_path / "words"
    train_tokenizer(["a small red house on a green hill"] * 9, 290, other / "tokenizer.json")
    (other / "tokenizer_config.json").write_bytes((whole / "tokenizer" / "tokenizer_config.json").read_bytes())
    for words in ("embedded", str(whole / "tokenizer")):
        assert checked_start(*settings_of(whole, tmp_path, f"data.tokenizer={words}"), world_size=1)
    with pytest.raises(ConfigError, match="has other words or ids than"):
        checked_start(*settings_of(whole, tmp_path, f"data.tokenizer={other}"), world_size=1)
