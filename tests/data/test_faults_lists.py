"""Every fault of a list in docs/faults.md: the right caption, an entry that is named with its reason, or a sentence.

A row of the page's table has cases; each makes a folder and says which captions must come out. What else becomes of its
entries must stand in the row.
"""

import gzip
import hashlib
import json
import re
import zlib
from pathlib import Path
from typing import Any

import pytest

from sclds.cli.main import main
from sclds.config import DatasetConfig
from sclds.config.errors import DataError
from sclds.data.prepare.engine import prepare
from sclds.data.prepare.sources import SOURCES
from sclds.data.storage.shards import ShardReader, open_index

from .layouts import photo, put
from .listed import (
    CSV_HEAD,
    HEAD,
    PARTS,
    REGIONS,
    SIDECARS,
    TSV,
    URLS,
    Case,
    cc3m,
    image,
    internvid_line,
    karpathy,
    msrvtt,
    one_row,
    refused,
    regions,
    sbu,
    sbu_texts,
    several,
    table,
    video,
    webvid,
    with_first,
)
from .test_faults import page_rows

LISTS: dict[str, list[Case]] = {
    "header line or none, last line feed or none, images missing, counted from 0 or 1": [
        *(cc3m({f"{n}.jpg": n for n in range(6)}, head=head, tail=tail) for head in ("", HEAD) for tail in ("", "\n")),
        *(cc3m({f"{n + 1}.jpg": n for n in (1, 5)}, head=head, tail=tail) for head in ("",) for tail in ("", "\n")),
        cc3m({"0.jpg": 0, "00003.png": 3}, head="Caption\tImage URL\r\n", tail="\n\n"),
        cc3m({f"{n + 2}.jpg": n for n in (0, 5)}, head=HEAD),
        cc3m({f"{n}_{zlib.crc32(URLS[n].encode())}": n for n in (2, 3)}, head=HEAD, tail=""),
        cc3m({f"{n + 1}_{zlib.crc32(URLS[n].encode())}": n for n in (2, 3)}, head=HEAD),
        refused(cc3m({f"{n}.jpg": n for n in range(1, 5)})),
        refused(cc3m({f"{n}.jpg": n for n in range(1, 6)}, head=HEAD)),
        cc3m({f"{n}.jpg": n for n in range(1, 5)}, first_image=0),
        cc3m({f"{n}.jpg": n - 1 for n in range(1, 5)}, head=HEAD, first_image=1),
    ],
    "images named by number inside numbered folders": [
        refused(cc3m({"0000/000.jpg": 0, "0001/000.jpg": 3})),
        refused(cc3m({"00001/000010000.jpg": 3})),
        cc3m({"0000/000.jpg": 0, "0001/000.jpg": 3, "0001/002.jpg": 5}, folder_rows=3),
        cc3m({"00000/000001.jpg": 1, "00001/000012.jpg": 5}, folder_rows=3),
        cc3m({"0/0.jpg": 0, "1/3.jpg": 3}, folder_rows=0),
        cc3m({"0000/000.jpg": 0, "0000/004.jpg": 4}),
        refused(cc3m({"0000/000.jpg": 0, "0001/003.jpg": 3}, folder_rows=3)),
        refused(cc3m({"0.jpg": 0, "a/0.png": 0})),
    ],
    "captions beside the images in numbered folders": [
        Case("cc3m", {TSV: f"listed\t{URLS[0]}\n"} | SIDECARS, [["own 0"], ["own 1"]]),
        Case(
            "cc3m",
            {TSV: f"x\t{URLS[0]}\n", "training/0000/000.txt": "own\n"} | dict([*SIDECARS.items()][:1]),
            [["own"]],
        ),
        Case("cc3m", {TSV: f"x\t{URLS[0]}\n", "training/0002/7.jpg": photo(1)} | SIDECARS, [["own 0"], ["own 1"]]),
    ],
    "blank line among the rows, images named by number": [
        refused(cc3m({"0.jpg": 0}), files={TSV: f"a\t{URLS[0]}\n\nb\t{URLS[1]}\n"}),
    ],
    "image whose number no row has": [
        refused(cc3m({"0.jpg": 0, "9.jpg": 0})),
        refused(cc3m({"0.jpg": 0}), files={TSV: f"a\tb\nc\td\ne\t{URLS[0]}\n", "training/1.jpg": photo(1)}),
    ],
    "option that has no effect": [
        refused(cc3m({f"0_{zlib.crc32(URLS[0].encode())}": 0}, first_image=0)),
        refused(cc3m({"0.jpg": 0}, folder_rows=3)),
        refused(Case("cc3m", {TSV: f"x\t{URLS[0]}\n"} | SIDECARS, options={"first_image": 0})),
        refused(Case("sbu", {"annot.json": [], "images/a.jpg": photo(1)}, options={"folder_rows": 0})),
    ],
    "U+0085, U+2028, form feed, lone CR or tab in a caption": [
        *(with_first(one_row(f"old{mark}tower"), "old tower") for mark in "\x85\u2028\u2029\x0b\x0c\r\x1c\t"),
        *(
            webvid(f'1,u,P,000001,"old{mark}tower"\n2,u,P,000001,fog\n', "old tower", "fog")
            for mark in "\u2028\x85\n\r"
        ),
        Case(
            "sbu",
            sbu_texts("http://x/4_cd.jpg\nhttp://x/5_ab.jpg", "four\u2028cats\x85\nfive\x0ccats\n").files,
            [["four cats"], ["five cats"]],
        ),
        Case(
            "internvid",
            {
                "InternVid-10M-flt.jsonl": internvid_line("old\u2028tower"),
                "videos/a_1_2.mp4": video(),
            },
            [["old tower"]],
        ),
    ],
    "HTML entities in a caption": [with_first(one_row("salt &amp; &#34;pepper&quot;"), 'salt & "pepper"')],
    "byte order mark, UTF-16, UTF-32, Windows line ends": [
        *(
            with_first(one_row("café", lambda text, e=encoding: text.decode().encode(e)), "café")
            for encoding in ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")
        ),
        with_first(one_row("café", lambda text: text.replace(b"\n", b"\r\n")), "café"),
        webvid("1,u,P,000001,fog\r\n", "fog", head="\ufeff" + CSV_HEAD.replace("\n", "\r\n")),
        Case(
            "flickr30k",
            {
                "dataset_flickr30k.json": json.dumps(
                    karpathy({"raw": "a"}, captions=[]).files["dataset_flickr30k.json"]
                ).encode("utf-16"),
                "flickr30k-images/0.jpg": photo(1),
            },
            [["a"]],
        ),
    ],
    "bytes that are not UTF-8": [
        one_row(b"caf\xe9"),
        one_row(b"\xff\xff"),
        Case(
            "flickr30k",
            karpathy({"raw": "a"}, captions=[]).files
            | {
                "dataset_flickr30k.json": json.dumps(
                    karpathy({"raw": "kept"}, {"raw": "caf?"}, captions=[]).files["dataset_flickr30k.json"]
                )
                .replace("?", "\udce9")
                .encode("utf-8", "surrogateescape")
            },
            [["kept"]],
        ),
    ],
    "UTF-16 that is cut, lines that end in CR alone, a list still packed": [
        refused(one_row("a", lambda text: text.decode().encode("utf-16")[:-1])),
        refused(one_row("a", lambda text: text.replace(b"\n", b"\r"))),
        refused(one_row("a", gzip.compress)),
    ],
    "quotation mark that is never closed": [
        webvid('1,u,P,000001,"Boats\n2,u,P,000001,fog\n3,u,P,000001,"At sea"\n', "fog", "At sea"),
        webvid('1,u,P,000001,"Boats\n2,u,P,000001,fog"\n3,u,P,000001,rain\n', 'fog"', "rain"),
        webvid('1,u,P,000001,fog\n2,u,P,000001,"Boats\n', "fog"),
        webvid('1,u,P,000001,fog\n2,u,P,000001,"Boats" at sea\n3,u,P,000001,5" pipe\n', "fog", '5" pipe'),
    ],
    "table that a tool wrote again, with quotation marks or columns of its own": [
        table('a\t{}\n"he said ""hi"""\t{}\n"two\nlines"\t{}\n"quoted"\t{}\n', 'a|he said "hi"|two lines|"quoted"'),
        table("\tcaption\turl\n0\ta\t{}\n1\tb\t{}\n", "a|b"),
        table("URL\tText\tscore\n{}\ta\t0.9\n{}\tb\t0.8\n", "a|b"),
        table('"not\n"closed\t{}\nc\t{}\n', '"closed|c'),
        refused(table("a\t{}\t0.9\nb\t{}\t0.8\n", "")),
        refused(table("Bild\tAdresse\tWert\na\t{}\t0.9\nb\t{}\t0.8\n", "")),
    ],
    "quotation mark that is never closed, images named by number": [
        refused(cc3m({"0.jpg": 0}), files={TSV: f'a\t{URLS[0]}\n"b\t{URLS[1]}\nc\t{URLS[2]}\n'}),
        Case(
            "cc3m",
            {TSV: f'a\t{URLS[0]}\n"b" c\t{URLS[1]}\n', "training/1.jpg": image()},
            [['"b" c']],
            options={"first_image": 0},
        ),
    ],
    "images of which no name can be a row's": [
        refused(cc3m({"building.jpg": 0, "b/1x.png": 0})),
        cc3m({f"{n:012d}.jpg": n for n in range(6)}),
        cc3m({f"{hashlib.md5(URLS[n].encode()).hexdigest().upper()}.jpg": n for n in (1, 2)}),
    ],
    "null, empty text, number or list among an entry's captions": [
        karpathy({"raw": "one"}, {"raw": None}, {"raw": ""}, {"raw": 7}, {"raw": "two"}, {}, captions=["one", "two"]),
        karpathy({"raw": "\u200b"}, {"raw": ["x"]}, None, "three", captions=["three"]),
        Case(
            "visual_genome",
            {
                "region_descriptions.json": [{"id": 1, "regions": [{"phrase": None}, {"phrase": "a bay"}, {}]}],
                "VG_100K/1.jpg": photo(1),
                "VG_100K_2/2.jpg": photo(1),
            },
            [["a bay"]],
        ),
        sbu({"5_ab.jpg": [None, "five cats", 3]}),
    ],
    "no caption at all": [
        Case(
            "flickr30k",
            {
                "dataset_flickr30k.json": {
                    "images": [
                        {"filename": "0.jpg", "split": "train", "sentences": s, "imgid": 0}
                        for s in ([{"raw": None}], [{"raw": " "}], [])
                    ]
                    + [{"filename": "1.jpg", "split": "train", "sentences": [{"raw": "kept"}]}]
                },
                "flickr30k-images/0.jpg": photo(1),
                "flickr30k-images/1.jpg": photo(1),
            },
            [["kept"]],
        ),
    ],
    "JSON objects where pairs were expected, and pairs where objects were": [
        sbu([["5_ab.jpg", "five cats"]]),
        sbu([{"image": "sbu/5_ab.jpg", "caption": "five cats"}, 7]),
        sbu({"5_ab.jpg": "five cats"}),
        sbu({"images/5_ab.jpg": {"caption": "five cats", "id": 3}}),
        sbu([["http://x/5_ab.jpg", "five cats"]], "sbu-captions-all.json"),
        sbu([{"image_url": "http://x/5_ab.jpg", "caption": "five cats"}], "sbu-captions-all.json"),
        sbu([["0001/000.jpg", "five cats"]], **{"images/0001/000.jpg": photo(1), "images/0000/000.jpg": photo(2)}),
        *(
            Case("internvid", {"InternVid-10M-flt.jsonl": text, "videos/a_1_2.mp4": video()}, [["old"]])
            for text in (f"[{internvid_line('old')}]", f"[\n{internvid_line('old')},\n7]\n")
        ),
        refused(sbu({"urls": []}, "sbu-captions-all.json")),
        refused(sbu(7)),
    ],
    "JSON lists one behind the other, and what else lies behind a list": [
        *(
            Case("internvid", {"InternVid-10M-flt.jsonl": text} | PARTS, [["x"], ["y"]])
            for text in ("[{}][{}]", "[{}]\n[{}]\n", "\n[{},\n{}]")
            for text in [text.format(internvid_line("x"), internvid_line("y", "b"))]
        ),
        Case("visual_genome", {"region_descriptions.json": regions(1) + "\n" + regions(2)} | REGIONS, [["1"], ["2"]]),
        refused(Case("visual_genome", {"region_descriptions.json": regions(1, 2) + "{}"} | REGIONS)),
    ],
    "lists of unequal length": [
        refused(sbu_texts("http://x/4_cd.jpg\nhttp://x/5_ab.jpg\n", "five cats\n")),
        refused(sbu({"image_urls": ["http://x/5_ab.jpg"], "captions": []}, "sbu-captions-all.json")),
    ],
    "names that differ where keys do not": [
        several({"犬1.jpg": "a dog", "猫1.jpg": "a cat"}),
        several({"a b.jpg": "a dog", "a-b.jpg": "a cat"}),
        several({"a.jpg": "a dog", "a.png": "a cat"}),
    ],
    "image that lies in another folder than the list names": [
        several({"0001/000.jpg": "a dog", "0002/000.jpg": "a cat"}, ["0002/000.jpg"], ["a cat"]),
        several({"a/x.jpg": "a dog", "b/x.jpg": "a cat", "y.jpg": "fog"}, ["x.jpg", "y.jpg"], ["fog"]),
        several({"sbu/x.jpg": "a dog", "/images/b/y.jpg": "a cat"}, ["x.jpg", "c/y.jpg"]),
    ],
    "two rows of one id": [
        webvid("1,u,P,000001,fog\n1,u,P,000001,rain\n2,u,P,000001,sun\n", "fog", "sun"),
        sbu('{"5_ab.jpg": "five cats", "5_ab.jpg": "four dogs"}'),
    ],
    "two images of one name": [
        refused(sbu([["000.jpg", "x"]], **{"images/0001/000.jpg": photo(1), "images/0000/000.jpg": photo(2)})),
        refused(
            sbu(
                [["http://x/5_ab.jpg", "x"]],
                "sbu-captions-all.json",
                **{"images/5_ab.jpg": photo(1), "images/a/5_ab.png": photo(2)},
            )
        ),
    ],
    "row with fewer or more columns, line that is not JSON": [
        webvid("1,u,P,000001\n\n2,u,P,000001,fog\n3,u,P,000001,rain,sun\n", "fog"),
        Case(
            "internvid",
            {
                "InternVid-10M-flt.jsonl": f'{internvid_line("old")}\n{{"Youtu\n[1]\n',
                "videos/a_1_2.mp4": video(),
            },
            [["old"]],
        ),
        refused(Case("internvid", {"InternVid-10M-flt.jsonl": "no\n{}\n", "videos/a_1_2.mp4": video()})),
    ],
    "1k-A whose list of held-out videos is not whole": [
        refused(
            Case(
                "msrvtt_1ka",
                {
                    "MSRVTT_JSFUSION_test.csv": f"key,vid_key,video_id,sentence\nret0,msr0,video0,a\n{row}",
                    "MSRVTT_data.json": {"videos": [], "sentences": []},
                    "videos/video0.mp4": video(),
                },
            )
        )
        for row in ("ret1,msr1\n", 'ret1,msr1,video1,"open\n')
    ],
    "1k-A whose list names other videos than the annotations": [
        refused(
            Case(
                "msrvtt_1ka",
                {
                    "MSRVTT_JSFUSION_test.csv": f"key,vid_key,video_id,sentence\nret0,msr0,{name},a\n",
                    "MSRVTT_data.json": {"videos": [{"video_id": "video0"}], "sentences": []},
                    "videos/video0.mp4": video(),
                },
            )
        )
        for name in ("video0.mp4", "Video0", "0", "video1")
    ],
    "MSR-VTT whose list marks all videos alike": [
        msrvtt(["train"] * 2, "train", [["it is video6512"]]),
        msrvtt(["train"] * 2, "val", [["it is video6513"]]),
        msrvtt(["train", "validate"], "train", [["it is video6512"]]),
        msrvtt(["validate", "train"], "val", [["it is video6512"]]),
        refused(msrvtt(["train"] * 2, "val", [], first=0)),
    ],
}


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
