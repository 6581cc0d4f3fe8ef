"""Every fault of a list in docs/faults.md: the right caption, an entry that is named with its reason, or a sentence.

A row of the page's table has cases; each makes a folder and says which captions must come out. What else becomes of its
entries must stand in the row.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from sclds.cli.main import main
from sclds.config import DatasetConfig
from sclds.config.errors import DataError
from sclds.data.prepare.engine import prepare
from sclds.data.prepare.sources import SOURCES
from sclds.data.storage.shards import ShardReader, open_index

from .layouts import put
from .list_cases import HEAD, Case, cc3m, karpathy, webvid
from .list_faults_entries import ENTRIES
from .list_faults_rows import ROWS
from .test_faults import page_rows

LISTS = ROWS | ENTRIES


def outcome_of(case: Case, folder: Path) -> tuple[list[list[str]], list[str], Any]:
    """The captions of every sample, the reasons of all that was dropped or left out, and the report."""
    root, out = folder / "root", folder / "out"
    for name, content in case.files.items():
        put(root / name, content)
    report = prepare(case.source, SOURCES[case.source], root, out, case.split, 1, 100, case.options)
    index = open_index([DatasetConfig(name="set", shards=str(out), kind=SOURCES[case.source].kind)])
    reader = ShardReader()
    captions = [reader.captions(*index.locate(number)) for number in range(len(index))]
    return captions, [*report["dropped"], *report["left_out"]], report


def test_the_page_and_the_cases_name_the_same_rows():
    assert list(page_rows("list")) == list(LISTS)


CASES = [pytest.param(row, case, id=f"{r}-{c}") for r, row in enumerate(LISTS) for c, case in enumerate(LISTS[row])]


@pytest.mark.parametrize(("row", "case"), CASES)
def test_every_fault_has_the_result_that_the_page_gives(row, case, tmp_path):
    result = page_rows("list")[row]
    said = re.findall(r"`([^`]+)`", result)
    if not case.captions:
        with pytest.raises(DataError) as fault:
            outcome_of(case, tmp_path)
        assert "refused" in result
        assert any(part in str(fault.value) for part in said), fault.value
        return
    captions, reasons, report = outcome_of(case, tmp_path)
    assert captions == case.captions, report
    assert "used" in result
    for reason in reasons:
        known = ("its image was not downloaded", "its file is missing")
        assert reason in known or any(part in reason for part in said), reason


def test_the_line_of_what_is_dropped_is_named(tmp_path):
    case = webvid('1,u,P,000001,fog\n2,u,P,000001,"Boats\n1,u,P,000001,rain\n3,x\n', "fog")
    _, _, report = outcome_of(case, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()]
    csv = tmp_path / "root" / "results_2M_train.csv"
    assert [line["entry"] for line in lines] == [f"{csv}, line {number}" for number in (3, 4, 5)]
    assert report["first_dropped"]["its key repeats that of an earlier sample"] == f"{csv}, line 4"


def test_what_is_left_out_is_counted_by_reason(tmp_path):
    case = karpathy({"raw": "one"}, {"raw": None}, {"raw": ""}, {"raw": 7}, {"raw": "two"}, captions=["one", "two"])
    _, _, report = outcome_of(case, tmp_path)
    assert report["left_out"] == {"its caption is not text": 2, "its caption is empty": 1}
    assert report["samples"] == {"read": 1, "kept": 1, "dropped": 0}


def test_the_numbering_that_was_found_is_reported(tmp_path, capsys):
    case = cc3m({f"{n + 1}.jpg": n for n in range(6)}, head=HEAD)
    for name, content in case.files.items():
        put(tmp_path / "root" / name, content)
    command = ["prepare", "cc3m", "--root", str(tmp_path / "root"), "--out", str(tmp_path / "out"), "--splits", "train"]
    assert main([*command, "--workers", "1"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "1 is the first row with an address" in said
    assert "the list has a header line" in said
    assert "found 6 of 3,318,333 expected (less than 0.1 %; Sharma et al., 2018)" in said
    assert "others could still download 87.6 % (pixparse, December 2021): far fewer than others had" in said


@pytest.mark.parametrize(
    ("name", "option", "number", "sentence"),
    [
        ("coco", "--first-image", "1", "--first-image has no effect on COCO captions"),
        ("webvid", "--folder-rows", "1", "--folder-rows has no effect on WebVid-2.5M"),
        ("cc3m", "--first-image", "-1", "--first-image is -1: give at least 0"),
    ],
)
def test_options_are_refused_where_they_say_nothing(name, option, number, sentence, tmp_path, capsys):
    for places in SOURCES[name].splits.values():
        for place in places:
            put(tmp_path / place, b"") if "." in place else (tmp_path / place).mkdir(exist_ok=True)
    assert main(["prepare", name, "--root", str(tmp_path), "--out", str(tmp_path / "out"), option, number]) == 2
    assert sentence in capsys.readouterr().err
