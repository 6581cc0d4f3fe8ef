"""Trackers: what their libraries are told, that a run goes on in the same run of theirs, and that no fault ends it."""

import importlib
import json
import sys
import threading
import time
import types
from pathlib import Path

import pytest
import torch

from sclds.config.reading import load_config
from sclds.run.folder import RunFolder
from sclds.run.metrics import result_scalars, scalars_of
from sclds.train import trackers
from sclds.train.trackers import PACKAGES, Tracker, open_trackers, tracker_problems
from tests.report.runs import QUICKSTART

LINE = {
    "step": 5,
    "loss": {"mlm": 1.5, "itm": None},
    "levels": {"mlm": 5.8},
    "learning_rates": {"encoders": 0.1},
    "lr": 0.1,
    "grad_norm": None,
    "samples_per_second": 12.0,
    "phases": {"fusion": 0.2},
    "ranks": {"max": 0.3, "rank": 3, "host": "a"},
    "mfu": 0.4,
    "heldout/a/total": 3.0,
    "time": 1.0,
    "spent": {"step": 1.0},
}
NUMBERS = {
    "loss/mlm": 1.5,
    "guessing/mlm": 5.8,
    "learning_rate/encoders": 0.1,
    "training/samples_per_second": 12.0,
    "phases/fusion": 0.2,
    "ranks/max": 0.3,
    "speed/mfu": 0.4,
    "heldout/a/total": 3.0,
}


def settings(**log):
    return load_config(QUICKSTART, [f"log.{key}={value}" for key, value in log.items()])


def follow(config, folder, step=5):
    """Log a line and a picture as a run does; return what was said."""
    said = []
    [tracker] = open_trackers(config, RunFolder(folder), said.append)
    tracker.scalars(scalars_of(LINE), step)
    tracker.picture("inputs/a", torch.full((3, 4, 6), 0.5), "caption: `a dog`", step)
    tracker.close()
    return said


def test_a_line_becomes_numbers_by_name():
    assert scalars_of(LINE) == NUMBERS
    losses = {"final": {"mlm": 2}, "initial": {"mlm": 3}}
    results = {"retrieval": {"image": {"r10": 0.5}}, "losses": losses, "sets": {}}
    assert result_scalars(results) == {"results/retrieval/image/r10": 0.5, "results/losses/mlm": 2.0}


class Recorder(types.ModuleType):
    """Stands for a library: notes every call with its arguments."""

    def __init__(self, name):
        super().__init__(name)
        self.calls = []

    def note(self, name):
        def call(*given, **named):
            self.calls.append((name, given, named))
            return self

        return call

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self.note(name)


def test_wandb_is_told_steps_numbers_and_pictures(tmp_path, monkeypatch):
    """By the functions of wandb 0.31: init, define_metric, log, Image, finish."""
    library = Recorder("wandb")
    monkeypatch.setitem(sys.modules, "wandb", library)
    assert follow(settings(wandb="scl"), tmp_path) == []
    names = [name for name, *_ in library.calls]
    assert names == ["init", "define_metric", "define_metric", "log", "Image", "log", "finish"]
    _, _, opened = library.calls[0]
    assert (opened["project"], opened["name"], opened["resume"]) == ("scl", "quickstart", "allow")
    assert opened["config"]["batch"]["global_size"] == 128
    assert library.calls[3][1] == ({**NUMBERS, "step": 5},)
    pixels = library.calls[4][1][0]
    assert (pixels.shape, pixels.dtype.name, int(pixels[0, 0, 0])) == ((4, 6, 3), "uint8", 128)
    library.calls.clear()
    follow(settings(wandb="scl"), tmp_path)
    assert library.calls[0][2]["id"] == opened["id"], "a run that goes on is the same one"


def test_trackio_is_told_the_same(tmp_path, monkeypatch):
    """By the functions of trackio 0.43: init, log, Image, finish."""
    library = Recorder("trackio")
    monkeypatch.setitem(sys.modules, "trackio", library)
    assert follow(settings(trackio="scl"), tmp_path) == []
    assert [name for name, *_ in library.calls] == ["init", "log", "Image", "log", "finish"]
    assert library.calls[1][1:] == ((NUMBERS,), {"step": 5})
    name = library.calls[0][2]["name"]
    library.calls.clear()
    follow(settings(trackio="scl"), tmp_path)
    assert library.calls[0][2]["name"] == name


@pytest.mark.parametrize("where", ["begin", "scalars", "close"])
@pytest.mark.parametrize("fault", [RuntimeError("no\nserver"), SystemExit(1), KeyboardInterrupt()])
def test_no_fault_of_a_tracker_ends_a_run_and_each_is_said_once(where, fault):
    def fails(*given):
        raise fault

    quiet = dict.fromkeys(("begin", "scalars", "picture", "close"), lambda *given: None)
    said = []
    tracker = Tracker(types.SimpleNamespace(name="T", key="t", **quiet | {where: fails}), said.append)
    for step in range(20):
        tracker.scalars({"a": 1.0}, step)
    tracker.close()
    [sentence] = said
    assert sentence.startswith(f"T (t) takes nothing more: {type(fault).__name__}: ")
    assert "\n" not in sentence
    assert sentence.endswith("metrics.jsonl has the figures")


def test_a_slow_tracker_holds_nothing_up(monkeypatch):
    """What does not fit is counted; the end waits so long and no longer."""
    monkeypatch.setattr("sclds.train.trackers.WAITING", 3)
    monkeypatch.setattr("sclds.train.trackers.PATIENCE", 0.05)
    never = threading.Event()
    service = types.SimpleNamespace(name="T", key="t", begin=never.wait, scalars=None, picture=None, close=None)
    said = []
    tracker = Tracker(service, said.append)
    for step in range(10):
        tracker.scalars({"a": 1.0}, step)
    tracker.close()
    assert said == [
        "T has not taken everything in 0 s; metrics.jsonl has it all",
        "T was too slow for 7 entries; metrics.jsonl has them",
    ]


def test_a_missing_library_is_an_error_of_the_settings(monkeypatch):
    monkeypatch.setattr("sclds.train.trackers.find_spec", lambda name: None)
    told = tracker_problems(settings(wandb="a", mlflow="b", trackio="c").log)
    assert [sentence.split(" ")[0] for sentence in told] == ["log.wandb=a", "log.mlflow=b", "log.trackio=c"]
    assert all("pip install" in sentence for sentence in told)
    assert tracker_problems(settings().log) == []


def test_a_damaged_list_of_trackers_begins_a_new_run(tmp_path, monkeypatch):
    library = Recorder("wandb")
    monkeypatch.setitem(sys.modules, "wandb", library)
    for content in (b"[1]", b'{"wandb": 5}', b"\xff", b'{"wan'):
        (tmp_path / "trackers.json").write_bytes(content)
        assert follow(settings(wandb="scl"), tmp_path) == []
        assert list(json.loads((tmp_path / "trackers.json").read_text())) == ["wandb"]


def test_trackers_that_begin_at_once_are_all_remembered(tmp_path, monkeypatch):
    folder, together, config = RunFolder(tmp_path), threading.Barrier(8), settings()
    whole = trackers.write_atomically

    def slow(path, content):
        time.sleep(0.002)
        whole(path, content)

    monkeypatch.setattr(trackers, "write_atomically", slow)

    def begin(key):
        service = trackers.Wandb(config, folder)
        service.key = key
        together.wait()
        service.identity()

    threads = [threading.Thread(target=begin, args=(f"t{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(json.loads(folder.trackers.read_text())) == [f"t{number}" for number in range(8)]


LIBRARIES = Path(sys.prefix) / "trackers"
"""Where `make test` installs them, beside the environment."""
NEEDS = f"{{}} is neither in the environment nor in {LIBRARIES}; make test installs it (requirements/trackers.txt)"


@pytest.fixture
def library(request, tmp_path, monkeypatch):
    """The real library; what its import added is gone afterwards, so that other tests find none."""
    known = set(sys.modules)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read by the import
    monkeypatch.setattr(sys, "path", [*sys.path, str(LIBRARIES)])
    yield pytest.importorskip(request.param, reason=NEEDS.format(request.param))
    for name in set(sys.modules) - known:
        del sys.modules[name]


@pytest.mark.parametrize("library", [PACKAGES["wandb"]], indirect=True)
def test_the_real_wandb_writes_offline(library, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert follow(settings(wandb="scl"), tmp_path) == []
    library.teardown()  # its own process writes on after the end of a run
    [written] = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    assert b"loss/mlm" in written.read_bytes()
    assert list((tmp_path / "wandb").rglob("*.png"))


@pytest.mark.parametrize("library", [PACKAGES["mlflow"]], indirect=True)
def test_the_real_mlflow_keeps_a_local_store_and_goes_on_in_it(library, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    for step in (5, 10):
        assert follow(settings(mlflow="scl"), tmp_path, step) == []
    client = library.MlflowClient()
    [run] = client.search_runs([client.get_experiment_by_name("scl").experiment_id])
    assert [m.step for m in client.get_metric_history(run.info.run_id, "loss/mlm")] == [5, 10]
    assert run.data.params["batch.global_size"] == "128"
    assert run.info.status == "FINISHED"


@pytest.mark.parametrize("library", [PACKAGES["trackio"]], indirect=True)
def test_the_real_trackio_keeps_runs_here_and_goes_on_in_them(library, tmp_path):
    for step in (5, 10):
        assert follow(settings(trackio="scl"), tmp_path, step) == []
    [run] = library.Api().runs("scl")
    assert run.name.startswith("quickstart-")
    logged = importlib.import_module("trackio.sqlite_storage").SQLiteStorage.get_logs("scl", run.name)
    assert [(entry["step"], entry["loss/mlm"]) for entry in logged if "loss/mlm" in entry] == [(5, 1.5), (10, 1.5)]
