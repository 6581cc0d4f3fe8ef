"""Preparing is resumable, the same for any number of processes, and accounts for every entry."""

import json
import subprocess
import sys
import time

import psutil
import pytest

from sclds.cli.main import main
from sclds.cli.prepare_index import STOPPED
from sclds.config import DatasetConfig
from sclds.config.errors import DataError
from sclds.data.prepare import engine
from sclds.data.prepare.engine import prepare
from sclds.data.prepare.shard_job import write_one
from sclds.data.prepare.sources import SOURCES
from sclds.data.storage.shards import open_index

from .layouts import photo, put

COUNT = 25


@pytest.fixture
def root(tmp_path):
    """Flickr30k of 25 pictures: one missing, one that repeats another, captions that repeat."""
    entries = []
    for n in range(COUNT):
        sentences = [{"raw": f"thing {n % 20} is here"}, {"raw": "  short "}]
        entries.append({"filename": f"{n}.jpg", "split": "train", "sentences": sentences, "imgid": n})
        if n != 7:
            put(tmp_path / "root" / "flickr30k-images" / f"{n}.jpg", photo(0 if n == 24 else n))
    put(tmp_path / "root" / "dataset_flickr30k.json", {"images": entries})
    return tmp_path / "root"


def run(root, out, workers=1, shard_samples=4):
    return prepare("flickr30k", SOURCES["flickr30k"], root, out, "train", workers, shard_samples)


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_report_accounts_for_everything(root, tmp_path):
    report = run(root, tmp_path / "out")
    assert report == json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["samples"] == {"read": 25, "kept": 24, "dropped": 1}
    assert report["dropped"] == {"its file is missing": 1}
    assert report["duplicates"] == {"media": 1, "texts": (24 - 19) + (24 - 1)}
    assert report["texts"] == {"count": 48, "words": {"mean": 2.5, "min": 1, "median": 1, "p95": 4, "max": 4}}
    assert report["shards"] == 7
    assert report["bytes"] == sum(p.stat().st_size for p in (tmp_path / "out").glob("*.tar"))
    line = json.loads((tmp_path / "out" / "dropped.jsonl").read_text())
    assert line == {
        "sample": "7",
        "file": str(root / "flickr30k-images" / "7.jpg"),
        "reason": "its file is missing",
        "shard": 1,
    }


@pytest.mark.parametrize("place", ["../../secret", "{outside}"])
def test_files_outside_of_the_folder_are_left_out(place, tmp_path):
    """A list that somebody made must not put this machine's files into shards that others get."""
    outside, root = tmp_path / "secret", tmp_path / "root"
    put(outside / "7.mp4", b"x")
    rows = f"7,http://x,PT1S,{place.format(outside=outside)},A name\n"
    put(root / "results_2M_val.csv", f"videoid,contentUrl,duration,page_dir,name\n{rows}")
    (root / "videos").mkdir()
    with pytest.raises(DataError, match=f"its file lies outside of {root}: 1"):
        prepare("webvid", SOURCES["webvid"], root, tmp_path / "out", "val", 1, 4)


@pytest.mark.multiprocess
def test_the_bytes_do_not_depend_on_the_number_of_processes(root, tmp_path):
    run(root, tmp_path / "one")
    run(root, tmp_path / "two", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_stopped_run_goes_on_and_ends_alike(root, tmp_path, monkeypatch, capsys):
    run(root, tmp_path / "whole")
    written = []

    def stopping(job):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(job.number)
        return write_one(job)

    monkeypatch.setattr(engine, "write_one", stopping)
    arguments = ["prepare", "flickr30k", "--root", str(root), "--out", str(tmp_path / "out"), "--splits", "train"]
    arguments += ["--workers", "1", "--shard-samples", "4"]
    assert main(arguments) == STOPPED
    assert "stopped: 3 shards are finished" in capsys.readouterr().out
    (tmp_path / "out" / "train" / "00003.tar.part").write_bytes(b"half a shard")
    (tmp_path / "out" / "train" / "00001.tar").write_bytes(b"cut")
    monkeypatch.setattr(engine, "write_one", lambda job: written.append(job.number) or write_one(job))
    assert main(arguments) == 0
    assert written == [0, 1, 2, 1, 3, 4, 5, 6]
    assert contents(tmp_path / "out" / "train") == contents(tmp_path / "whole")
    printed = capsys.readouterr().out
    assert "24 of 25" in printed
    assert f"{{name: flickr30k, shards: {tmp_path / 'out' / 'train'}, kind: image}}" in printed
    main(arguments)
    assert written == [0, 1, 2, 1, 3, 4, 5, 6]


@pytest.mark.multiprocess
def test_a_killed_run_goes_on_and_leaves_no_process(root, tmp_path):
    run(root, tmp_path / "whole", shard_samples=1)
    line = [sys.executable, "-m", "sclds.cli.main", "prepare", "flickr30k", "--root", str(root), "--splits", "train"]
    line += ["--out", str(tmp_path / "out"), "--workers", "2", "--shard-samples", "1"]
    out = tmp_path / "out" / "train"
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not any((out / "accounts").glob("*.json")) and process.poll() is None:
        time.sleep(0.005)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert workers
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while any(_runs(worker) for worker in workers):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.05)
    run(root, out, shard_samples=1)
    assert {k: v for k, v in contents(out).items() if not k.endswith(".part")} == contents(tmp_path / "whole")


def _runs(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_shard_of_which_nothing_can_be_kept_is_not_written(root, tmp_path):
    report = run(root, tmp_path / "out", shard_samples=1)
    assert not (tmp_path / "out" / "00007.tar").exists()
    assert report["shards"] == 24
    assert len(open_index([DatasetConfig(name="set", shards=str(tmp_path / "out"))])) == 24


@pytest.mark.parametrize("change", ["shard size", "caption", "account"])
def test_shards_of_other_inputs_are_not_mixed(root, tmp_path, change):
    run(root, tmp_path / "out")
    if change == "caption":
        path = root / "dataset_flickr30k.json"
        path.write_text(path.read_text().replace("thing 3", "thing 333"))
    elif change == "account":
        (tmp_path / "out" / "accounts" / "00000.json").write_text("{")
    with pytest.raises(DataError, match="made from other annotations"):
        run(root, tmp_path / "out", shard_samples=5 if change == "shard size" else 4)


def test_other_peoples_shards_are_not_overwritten(root, tmp_path):
    put(tmp_path / "out" / "00000.tar", b"precious")
    with pytest.raises(DataError, match="did not write: give another --out"):
        run(root, tmp_path / "out")
    assert (tmp_path / "out" / "00000.tar").read_bytes() == b"precious"


def test_a_full_disk_is_a_sentence(root, tmp_path, monkeypatch):
    def full(job):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(engine, "write_one", full)
    with pytest.raises(DataError, match="No space left on device"):
        run(root, tmp_path / "out")


@pytest.mark.parametrize("option", ["--workers", "--shard-samples"])
def test_counts_below_one_are_refused(root, tmp_path, option, capsys):
    line = ["prepare", "flickr30k", "--root", str(root), "--out", str(tmp_path / "out"), option, "0"]
    assert main(line) == 2
    assert f"{option} is 0: give at least 1" in capsys.readouterr().err
