import pytest

from sclds.config.errors import UserError
from sclds.config.reading import load_config, parse_config
from sclds.run.folder import RunFolder
from sclds.run.metrics import read_metrics

CONFIG = parse_config({"name": "a", "run_dir": "r", "data": {"train": [{"name": "x", "shards": "y"}]}})


def test_opening_keeps_the_metrics_up_to_the_resumed_step(tmp_path):
    folder = RunFolder(tmp_path / "deep" / "run")
    folder.open(CONFIG, 0)
    for step in (1, 2, 3):
        folder.append_metrics({"step": step})
    with folder.metrics.open("a") as file:
        file.write('{"step": 4, "lo')
    folder.open(CONFIG, 2)
    folder.append_metrics({"step": 3})
    assert [line["step"] for line in read_metrics(folder.metrics)] == [1, 2, 3]
    assert load_config(folder.config) == CONFIG


def test_results_are_read_back(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.read_results() == {}
    folder.write_results({"losses": {"initial": {"mlm": 1.5}}})
    assert folder.read_results()["losses"]["initial"]["mlm"] == 1.5


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").touch()
    [problem] = RunFolder(tmp_path / "file" / "run").problems()
    assert str(tmp_path / "file") in problem


def test_an_unwritable_folder_is_named(tmp_path, monkeypatch):
    def refused(dir):
        raise PermissionError(13, "Permission denied", dir)

    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    [problem] = RunFolder(tmp_path / "a" / "run").problems()
    assert f"{tmp_path} cannot be written (Permission denied)" in problem


def test_a_writable_folder_is_fine(tmp_path):
    assert RunFolder(tmp_path / "a" / "b").problems() == []


def test_half_a_line_is_left_out_and_the_later_line_of_a_step_counts(tmp_path):
    """A killed and resumed run has both."""
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    path.write_text('{"step": 5, "a": 1}\n{"step": 10}\n[5]\n{"step": 5, "a": 2}\n{"step": 15, "lo')
    assert read_metrics(path) == [{"step": 5, "a": 2}, {"step": 10}]


def test_a_disk_that_is_full_is_a_sentence(tmp_path, monkeypatch):
    def full(*given):
        raise OSError(28, "No space left on device")

    folder = RunFolder(tmp_path)
    folder.metrics.mkdir()
    monkeypatch.setattr("sclds.run.folder.write_atomically", full)
    for write in (
        lambda: folder.append_metrics({"step": 1}),
        lambda: folder.write_results({}),
        lambda: folder.write_starts([]),
        lambda: folder.open(CONFIG, 0),
    ):
        with pytest.raises(UserError, match=r"cannot be written .*the same command goes on from the last checkpoint"):
            write()


def test_metrics_that_are_damaged_cost_their_lines_and_are_said(tmp_path):
    path, problems = tmp_path / "metrics.jsonl", []
    sound = b'{"step": 5, "loss": {"itm": NaN}, "heldout/a/itm": null}\n'
    bad = [b'{"step": true}', b'{"step": 6, "loss": 5}', b'{"step": 7, "lr": "x"}', b'{"step": 8, "heldout/a/b": []}']
    path.write_bytes(sound + b"\n".join([*bad, b"\x00" * 20, b"\xff", b"[" * 9999]) + b'\n{"step": 9, "loss": {}}')
    assert [line["step"] for line in read_metrics(path, problems)] == [5, 9]
    assert problems == ["metrics.jsonl: 7 damaged lines are left out: 2, 3, 4 and others"]
