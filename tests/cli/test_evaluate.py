"""`sclds evaluate`: any weights on any held-out sets, with what it refuses as sentences."""

import errno
import json
import os
import socket

import pytest

from sclds.cli.main import main
from sclds.config.errors import CheckpointError, UserError
from sclds.config.reading import dump_config, load_config
from sclds.interop import measure
from sclds.interop.folder import ModelFolder, Origin, build_model, write_folder
from sclds.interop.measure import find_target
from sclds.run import files
from sclds.run.checkpoints import STATE_FILE, checkpoint_name

SMALL = [
    *("data.image_size=16", "data.video_size=16", "data.frames=2"),
    *("model.vision.width=32", "model.vision.layers=1", "model.vision.pretrained_image_size=16"),
    *("model.text.width=32", "model.text.layers=1", "model.fusion.width=32", "model.fusion.layers=2"),
    *("model.projection=16", "evaluation.batch_size=8", "evaluation.max_samples=12"),
]
CLIPS = "video:mine=embedded:clips-heldout"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder as `sclds convert` writes it."""
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    model = load_config("quickstart", SMALL).model
    model = model.model_copy(update={"text": model.text.model_copy(update={"vocab_size": 8192})})
    write_folder(folder, ModelFolder(model, dict(build_model(model).named_parameters()), Origin("test")))
    return folder


@pytest.fixture
def run(tmp_path):
    """A run folder with the state of a checkpoint, without weights."""
    config = load_config("quickstart", [*SMALL, f"run_dir={tmp_path}"])
    place = tmp_path / "checkpoints" / checkpoint_name(7)
    place.mkdir(parents=True)
    state = {"step": 7, "world_size": 1, "config": config.model_dump(mode="json")}
    (place / STATE_FILE).write_text(json.dumps(state))
    return tmp_path


@pytest.fixture
def as_one_process(monkeypatch):
    """Set what a launcher sets, so that it is gone afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    values = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("as_one_process")
def test_weights_are_measured_on_given_sets_and_the_results_written(weights, tmp_path, capsys):
    out = tmp_path / "deep" / "found.json"
    line = ["evaluate", str(weights), *SMALL, "--config", "quickstart", "--data", CLIPS, "--out", str(out)]
    assert main(line) == 0
    shown, found = capsys.readouterr().out, json.loads(out.read_text())
    assert found["sets"]["mine"]["samples"] == 12
    assert found["sets"]["mine"]["retrieval"]["text_to_vision"]["n"] == 12
    assert found["sets"]["mine"]["loss_samples"] == 8
    assert found["sets"]["mine"]["levels"]["contrastive"] == pytest.approx(4.1589, abs=1e-4)
    assert set(found["retrieval"]) == {"video"}
    assert len(found["sets"]["mine"]["index"]) == 64
    for part in ("mine: caption", "candidates", "guessing", "4.159", str(out)):
        assert part in shown


@pytest.mark.usefixtures("as_one_process")
def test_a_file_that_cannot_be_written_is_told_before_all_is_measured(weights, tmp_path, capsys, monkeypatch):
    def measured(*given):
        raise AssertionError("it was measured")

    monkeypatch.setattr(measure, "measure", measured)
    line = ["evaluate", str(weights), *SMALL, "--config", "quickstart", "--data", CLIPS, "--out"]
    for out, why in ((tmp_path, "Is a directory"), ("/proc/found.json", "No such file or directory")):
        assert main([*line, str(out)]) == 2
        assert f"error: {out} cannot be written ({why}): give another --out" in capsys.readouterr().err


@pytest.mark.usefixtures("as_one_process")
def test_what_was_measured_is_shown_where_the_disk_has_filled_up_since(weights, tmp_path, capsys, monkeypatch):
    def full(path, text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "write_atomically", full)
    line = ["evaluate", str(weights), *SMALL, "--config", "quickstart", "--data", CLIPS]
    assert main([*line, "--out", str(tmp_path / "found.json")]) == 2
    said = capsys.readouterr()
    assert "cannot be written (No space left on device)" in said.err
    assert "mine: caption" in said.out


def test_a_run_is_measured_on_its_own_sets_or_others(run):
    own = find_target(run, None, [], [])
    assert [dataset.name for dataset in own.config.data.heldout] == ["pictures-heldout", "clips-heldout"]
    assert own.checkpoint.step == 7
    other = find_target(run / "checkpoints" / checkpoint_name(7), None, [CLIPS], ["evaluation.tasks=[retrieval]"])
    [row] = other.config.data.heldout
    assert (row.name, row.kind, row.shards) == ("mine", "video", "embedded:clips-heldout")
    assert other.config.evaluation.tasks == ["retrieval"]
    both = find_target(run, None, [CLIPS], ["data.heldout=[]"])
    assert both.config.data.heldout == [row]


@pytest.mark.parametrize(
    "words",
    [
        ["RUN", "name=a", "seed=3", "--data", CLIPS, "--data", "b=c", "--config", "quickstart", "--local_rank=1"],
        ["--data", CLIPS, "RUN", "--config=quickstart", "name=a", "--data=b=c", "seed=3"],
        ["--local_rank", "1", "--config", "quickstart", "--data", CLIPS, "--data", "b=c", "RUN", "name=a", "seed=3"],
    ],
    ids=["run first", "between", "run last"],
)
def test_options_and_settings_stand_in_any_order(words, monkeypatch, tmp_path):
    given = []

    def noted(*target):
        given.append(target)
        raise UserError("seen")

    monkeypatch.setattr(measure, "find_target", noted)
    assert main(["evaluate", *(str(tmp_path) if word == "RUN" else word for word in words)]) == 2
    assert given == [(tmp_path, "quickstart", (CLIPS, "b=c"), ("name=a", "seed=3"), None)]


def test_the_settings_of_a_run_are_those_of_its_config_where_it_is_there(run):
    settings = load_config("quickstart", [*SMALL, "name=renamed"])
    (run / "config.yaml").write_text(dump_config(settings))
    assert find_target(run, None, [], []).config.name == "renamed"


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda text: text[: text.index("optimizer:")], "engine.precision=bf16 differs from fp32"),
        (lambda text: text[:-30] + "\0", "is not valid YAML"),
        (lambda text: "", "name: is required"),
    ],
)
def test_a_damaged_config_of_a_run_is_named_and_the_checkpoints_own_can_be_had(run, damage, why):
    """Cut short it may be valid, with defaults for all that is gone."""
    file, settings = run / "config.yaml", load_config("quickstart", [*SMALL, f"run_dir={run}"])
    file.write_text(damage(dump_config(settings)))
    with pytest.raises(CheckpointError, match=rf"config.yaml is damaged, or was changed \(.*{why}.*move it away"):
        find_target(run, None, [], [])
    assert find_target(run, "quickstart", [], SMALL).config == settings
    file.unlink()
    assert find_target(run, None, [], []).config == settings


def test_text_of_a_checkpoint_is_no_interpolation(run):
    file = run / "checkpoints" / checkpoint_name(7) / STATE_FILE
    state = json.loads(file.read_text())
    state["config"]["name"] = "a ${b} c"
    file.write_text(json.dumps(state))
    assert find_target(run, None, [], []).config.name == "a ${b} c"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"data": ["nonsense"]}, "'nonsense' is not in"),
        ({"data": ["audio:a=b"]}, "'audio' is no kind of samples"),
        ({"data": ["a="]}, "not of the form NAME=SHARDS"),
        ({"data": ["a=nowhere/at/all"]}, "nowhere/at/all"),
        ({"overrides": ["data.heldout=[]"]}, "nothing to measure on; give --data"),
        ({"overrides": ["evaluation.batchsize=3"]}, "did you mean 'batch_size'"),
    ],
)
def test_what_cannot_be_measured_is_a_sentence(run, given, words):
    with pytest.raises(UserError, match="configuration") as fault:
        find_target(run, None, given.get("data", []), given.get("overrides", []))
    assert words in str(fault.value)


@pytest.mark.usefixtures("as_one_process")
def test_folders_that_hold_nothing_to_measure_are_refused(weights, tmp_path, capsys):
    assert main(["evaluate", str(tmp_path)]) == 2
    assert "no run with a complete checkpoint" in capsys.readouterr().err
    assert main(["evaluate", str(weights)]) == 2
    assert "give --data NAME=SHARDS, or --config" in capsys.readouterr().err
    assert main(["evaluate", str(weights), "losses.sigmoid=1", *SMALL, "--config", "quickstart", "--data", CLIPS]) == 2
    assert "give losses.sigmoid=0" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
