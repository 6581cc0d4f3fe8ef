"""`model.init_from` reads the folders that `sclds convert` writes, and says what does not fit."""

import pytest
import torch

from sclds.config.errors import CheckpointError
from sclds.data.tokenizer import load_tokenizer
from sclds.interop.folder import ModelFolder, Origin, build_model, write_folder
from sclds.train import engine
from tests.train.synthetic import tiny_config


class OneProcess:
    rank = 0
    world_size = 1
    device = torch.device("cpu")


def built(config):
    model = engine.build_model(config, load_tokenizer("embedded"), {})
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
    with pytest.raises(CheckpointError, match="cannot be read"):
        built(start(tmp_path))
