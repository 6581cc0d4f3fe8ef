"""The quarantine file: each sample once, whoever appends, whatever is killed; the judgement: by the data alone."""

import errno
import json
import multiprocessing
from pathlib import Path

import pytest

from sclds.config.errors import DataError
from sclds.data.quarantine import Quarantine, read_quarantine
from sclds.data.storage.disk import MachineFaultError

SHARD = "00000.tar"


def name(quarantine: Quarantine, sample: str, reason: str = "it is bad", step: int = 0) -> None:
    quarantine.record(sample, SHARD, "set", reason, step)


def named(path: Path) -> list[tuple[str, str]]:
    return [(line["sample"], line["reason"]) for line in map(json.loads, path.read_text().splitlines())]


def test_a_sample_is_named_once_for_each_reason_and_again_by_no_restart(tmp_path):
    path = tmp_path / "run" / "quarantine.jsonl"
    first, other = Quarantine(path), Quarantine(path)
    for quarantine in (first, other, first, Quarantine(path)):
        for epoch in range(3):
            name(quarantine, "a", step=epoch)
            name(quarantine, "b", step=epoch)
    name(other, "a", "it is worse")
    assert named(path) == [("a", "it is bad"), ("b", "it is bad"), ("a", "it is worse")]
    assert json.loads(path.read_text().splitlines()[0])["step"] == 0


def test_half_a_line_is_closed_and_left_out(tmp_path):
    path = tmp_path / "quarantine.jsonl"
    quarantine = Quarantine(path)
    name(quarantine, "a")
    with path.open("a") as file:
        file.write('{"sample": "b", "reas')
    name(quarantine, "c")
    name(Quarantine(path), "b")
    assert [entry["sample"] for entry in read_quarantine(path)] == ["a", "c", "b"]
    assert len(path.read_text().splitlines()) == 4
    path.write_text('7\n[1]\n{"sample": "d"}\n')
    assert read_quarantine(path) == [{"sample": "d"}]
    assert read_quarantine(tmp_path / "none") == []


def test_any_name_can_be_written_and_read(tmp_path):
    path = tmp_path / "quarantine.jsonl"
    names = ["猫\n猫", "caf\udce9", '"quoted"', "\x00"]
    for sample in names * 2:
        name(Quarantine(path), sample)
    assert [entry["sample"] for entry in read_quarantine(path)] == names
    assert "猫" in path.read_text(encoding="utf-8"), "people can read it"


def append(path: Path, start: int) -> None:
    quarantine = Quarantine(path)
    for k in range(start, start + 150):
        name(quarantine, f"sample {k}", "x" * 3000)


def test_several_processes_append_whole_lines_once(tmp_path):
    """Lines longer than a page, and two thirds of the samples met by more than one process."""
    path = tmp_path / "quarantine.jsonl"
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=append, args=(path, start)) for start in (0, 50, 100)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert sorted(int(sample.split()[1]) for sample, _ in named(path)) == list(range(250))


def test_a_file_that_cannot_be_written_is_a_fault_of_this_machine(tmp_path, monkeypatch):
    """A full or read-only disk under the run folder: told in a sentence, as where a checkpoint is written."""

    def full(*given):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(MachineFaultError, match=r"quarantine.jsonl cannot be written \(No space left.*free space"):
        Quarantine(tmp_path / "quarantine.jsonl").record("a", "a.tar", "set", "it has no image", 1)


def test_the_share_is_judged_from_200_samples_on():
    quarantine = Quarantine()
    quarantine.count(199, 199)
    quarantine.check(0.01)
    quarantine.count(1, 0)
    with pytest.raises(DataError, match=r"199 of the 200 samples read are unusable.*data\.max_bad_share=0\.01"):
        quarantine.check(0.01)
    quarantine.check(0.995)
