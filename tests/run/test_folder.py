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
