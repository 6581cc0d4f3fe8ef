"""Every public data set in its true layout becomes shards that the reader of pre-training opens, or refuses to."""

import json
import shutil
import tarfile
import zlib
from hashlib import sha256

import numpy as np
import pytest

from sclds.cli.main import main
from sclds.config import DatasetConfig
from sclds.config.errors import DataError
from sclds.data.media.decode import Decoder, Encoded
from sclds.data.media.inspection import inspect
from sclds.data.prepare.engine import prepare
from sclds.data.prepare.sources import SOURCES
from sclds.data.storage.shards import ShardReader, open_index, shard_problems

from .layouts import LAYOUTS, photo, put
from .synthetic import picture

CAPTIONED = [name for name, source in SOURCES.items() if source.member == "json"]


def made(name, tmp_path, **options):
    """Prepare a layout with one process; return what is expected, the reports and the folder of the shards."""
    expected = LAYOUTS[name](tmp_path / "root")
    source, out = SOURCES[name], tmp_path / "out"
    reports = {
        split: prepare(name, source, tmp_path / "root", out / split, split, 1, options.get("shard_samples", 100))
        for split in source.chosen(tmp_path / "root", options.get("splits"))
    }
    return expected, reports, out


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_source_has_a_layout():
    assert LAYOUTS.keys() == SOURCES.keys()


@pytest.mark.parametrize("name", CAPTIONED)
def test_captioned_sources_are_read(name, tmp_path):
    expected, reports, out = made(name, tmp_path)
    assert reports.keys() == expected.captions.keys()
    for split, captions in expected.captions.items():
        config = DatasetConfig(name="set", shards=str(out / split), kind=SOURCES[name].kind)
        assert shard_problems(config) == []
        index, reader = open_index([config]), ShardReader()
        found = {}
        for number in range(len(index)):
            shard, row = index.locate(number)
            frames = inspect(config.kind, reader.media(shard, row)).frames
            assert frames == (1 if config.kind == "image" else 5)
            found[key_of(shard, row)] = reader.captions(shard, row)
        assert found == captions
        dropped = {line["sample"]: line["reason"] for line in lines(out / split / "dropped.jsonl")}
        wanted = expected.dropped.get(split, {})
        assert dropped.keys() == wanted.keys()
        assert all(part in dropped[key] for key, part in wanted.items()), dropped
        samples = reports[split]["samples"]
        assert samples == {"read": len(found) + len(dropped), "kept": len(found), "dropped": len(dropped)}
        assert reports[split]["texts"]["count"] == sum(map(len, captions.values()))


@pytest.mark.parametrize(
    ("name", "sentence"), [("vqav2", "holds questions about images"), ("nlvr2", "holds statements about pairs")]
)
def test_downstream_sources_are_kept_whole_and_refused_by_pretraining(name, sentence, tmp_path):
    expected, _, out = made(name, tmp_path)
    for split in expected.captions:
        config = DatasetConfig(name="set", shards=str(out / split))
        assert [sentence in problem for problem in shard_problems(config)] == [True]
        with pytest.raises(DataError, match=sentence):
            open_index([config])
    with tarfile.open(out / "train" / "00000.tar") as tar:
        members = {info.name: tar.extractfile(info).read() for info in tar}
    if name == "vqav2":
        key = "COCO_train2014_000000000009"
        assert list(members) == [f"{key}.jpg", f"{key}.vqa.json"]
        told = json.loads(members[f"{key}.vqa.json"])
        assert told["crc32"] == [zlib.crc32(members[f"{key}.jpg"])]
        assert [q["question"] for q in told["questions"]] == ["What is it?", "Is it red?"]
        assert told["questions"][1]["answers"] == ["no"] + 9 * ["yes"]
        assert told["questions"][1]["answer"] == "yes"
        with tarfile.open(out / "test" / "00000.tar") as tar:
            told = json.loads(tar.extractfile(tar.getmembers()[1]).read())
        assert "answers" not in told["questions"][0]
    else:
        assert list(members) == ["train-1-0.left.png", "train-1-0.right.png", "train-1-0.nlvr2.json"]
        told = json.loads(members["train-1-0.nlvr2.json"])
        assert [s["label"] for s in told["statements"]] == [False, True]
        assert told["crc32"] == [zlib.crc32(members[f"train-1-0.{side}.png"]) for side in ("left", "right")]


def test_clips_of_every_container_are_decoded(tmp_path, make_config):
    decoder = Decoder(make_config([], [{"a.webm": b""}], {"global_size": 2, "max_micro_size": 2, "group_size": 2}), 2)
    for name in ("webvid", "lsmdc"):
        _, _, out = made(name, tmp_path / name, splits=["train"])
        index, reader = open_index([DatasetConfig(name="set", shards=str(out / "train"), kind="video")]), ShardReader()
        content = reader.media(*index.locate(0))
        info = inspect("video", content)
        frames = decoder([Encoded("video", content, info, np.array([0, 1, 2, 4], np.int32))])
        assert frames.shape == (4 * 16, 3 * 64)


def test_pictures_are_copied_unchanged(tmp_path):
    _, _, out = made("coco", tmp_path, splits=["val"])
    index, reader = open_index([DatasetConfig(name="set", shards=str(out / "val"))]), ShardReader()
    assert reader.media(*index.locate(0)) == photo(2)


def key_of(shard, row):
    return shard.sample_id(row).rpartition("/")[2]


def captions_in(folder):
    index, reader = open_index([DatasetConfig(name="set", shards=str(folder))]), ShardReader()
    places = [index.locate(number) for number in range(len(index))]
    return {key_of(shard, row): reader.captions(shard, row) for shard, row in places}


URLS = [f"http://example.org/{n}/image.jpg" for n in range(3)]


def listed(root, names):
    """CC3M whose pictures bear other names."""
    put(root / "Train_GCC-training.tsv", "".join(f"building {n}\t{url}\n" for n, url in enumerate(URLS)))
    for n, name in names.items():
        put(root / "training" / name, photo(n))


@pytest.mark.parametrize(
    "names",
    [
        {0: "00000.jpg", 2: "00002.jpg"},
        {0: "1.png", 2: "3.png"},
        {n: f"{sha256(URLS[n].encode()).hexdigest()}.jpg" for n in (0, 2)},
        {n: f"sub/{n}_{zlib.crc32(URLS[n].encode())}" for n in (0, 2)},
    ],
    ids=["row from 0", "row from 1", "hash", "row and hash"],
)
def test_downloads_are_matched_to_rows(names, tmp_path):
    root = tmp_path / "root"
    listed(root, names)
    prepare("cc3m", SOURCES["cc3m"], root, tmp_path / "out" / "train", "train", 1, 10)
    assert captions_in(tmp_path / "out" / "train") == {"000000000": ["building 0"], "000000002": ["building 2"]}


@pytest.mark.parametrize(
    ("names", "part"),
    [
        ({1: "1.jpg"}, "counted from 0 or 1: give --first-image 0 or 1"),
        ({0: "0.jpg", 1: "9.jpg"}, "numbered 9, but the list has 3 rows"),
        ({0: "0.jpg", 1: "sub/0.png"}, "have one name"),
    ],
)
def test_captions_are_not_given_to_the_wrong_picture(names, part, tmp_path):
    listed(tmp_path, names)
    with pytest.raises(DataError, match=part):
        prepare("cc3m", SOURCES["cc3m"], tmp_path, tmp_path / "out", "train", 1, 10)


def img2dataset(folder):
    put(folder / "00000_stats.json", {"count": 3})
    for n, status in enumerate(("success", "failed_to_download", "success")):
        put(folder / "00000" / f"{n:09d}.json", {"url": f"http://x/{n}", "caption": f"thing {n}", "status": status})
        if status == "success":
            put(folder / "00000" / f"{n:09d}.jpg", photo(n))
            put(folder / "00000" / f"{n:09d}.txt", f"thing {n}")


def test_img2dataset_folders_are_read(tmp_path):
    put(tmp_path / "root" / "sbu-captions-all.json", {"image_urls": [], "captions": []})
    img2dataset(tmp_path / "root" / "images")
    report = prepare("sbu", SOURCES["sbu"], tmp_path / "root", tmp_path / "out" / "train", "train", 1, 10)
    assert captions_in(tmp_path / "out" / "train") == {"000000000": ["thing 0"], "000000002": ["thing 2"]}
    assert report["dropped"] == {"its image was not downloaded": 1}
    shutil.rmtree(tmp_path / "root" / "images" / "00000")
    put(tmp_path / "root" / "images" / "00000.tar", b"")
    with pytest.raises(DataError, match="shards, which are read as they are"):
        prepare("sbu", SOURCES["sbu"], tmp_path / "root", tmp_path / "other", "train", 1, 10)


@pytest.mark.parametrize("form", ["pair of lists", "list of pairs", "object"])
def test_other_lists_of_sbu(form, tmp_path):
    root = tmp_path / "root"
    put(root / "images" / "5_ab.jpg", photo(5))
    if form == "pair of lists":
        put(root / "SBU_captioned_photo_dataset_urls.txt", "http://x/4_cd.jpg\nhttp://x/5_ab.jpg\n")
        put(root / "SBU_captioned_photo_dataset_captions.txt", "a cat\nfive cats\n")
    else:
        put(root / "annot.json", {"5_ab.jpg": "five cats"} if form == "object" else [["5_ab.jpg", "five cats"]])
    prepare("sbu", SOURCES["sbu"], root, tmp_path / "out" / "train", "train", 1, 10)
    assert list(captions_in(tmp_path / "out" / "train").values()) == [["five cats"]]


def test_lists_of_unequal_length_are_refused(tmp_path):
    put(tmp_path / "images" / "5_ab.jpg", photo(5))
    put(tmp_path / "sbu-captions-all.json", {"image_urls": ["a", "b"], "captions": ["c"]})
    with pytest.raises(DataError, match="lists 2 URLs, but there are 1 captions"):
        prepare("sbu", SOURCES["sbu"], tmp_path, tmp_path / "out", "train", 1, 10)


@pytest.mark.parametrize("name", SOURCES)
def test_missing_files_are_one_sentence(name, tmp_path, capsys):
    assert main(["prepare", name, "--root", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    needed = {place for places in SOURCES[name].splits.values() for place in places}
    assert all(place.replace("|", " or ") in said for place in needed)
    assert SOURCES[name].obtain in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "file", "content", "part"),
    [
        ("coco", "dataset_coco.json", "{", "is not JSON"),
        ("coco", "dataset_coco.json", "[]", "no list 'images': expected a Karpathy split"),
        ("visual_genome", "region_descriptions.json", "{}", "is not a JSON array"),
        ("visual_genome", "region_descriptions.json", '[{"id": 1, "regions": []}, {"i', "is not JSON"),
        ("msrvtt", "train_val_videodatainfo.json", "{}", "no list 'videos' and no 'sentences'"),
        ("webvid", "results_2M_train.csv", "a,b\n", "no column videoid, page_dir, name"),
        ("vqav2", "v2_mscoco_train2014_annotations.json", '{"annotations": 3}', "expected VQAv2's annotations"),
        ("nlvr2", "train.json", "{}\n{\n", "line 2 is not JSON"),
        ("coco", "dataset_coco.json", '{"images": [3, 4]}', "no sample of coco train can be used"),
    ],
)
def test_other_contents_are_a_sentence(name, file, content, part, tmp_path):
    LAYOUTS[name](tmp_path / "root")
    put(tmp_path / "root" / file, content)
    with pytest.raises(DataError, match=part):
        prepare(name, SOURCES[name], tmp_path / "root", tmp_path / "out", "train", 1, 10)


def test_unknown_splits_are_refused(tmp_path):
    with pytest.raises(DataError, match="no split tset: use train, val, test"):
        SOURCES["coco"].chosen(tmp_path, ["tset"])


def test_pictures_of_unused_forms_are_dropped(tmp_path):
    listed(tmp_path / "root", {0: "0.jpg"})
    put(tmp_path / "root" / "training" / "1.jpg", picture(1, "GIF"))
    report = prepare("cc3m", SOURCES["cc3m"], tmp_path / "root", tmp_path / "out", "train", 1, 10)
    reason = "its image is GIF; JPEG, PNG, WebP, BMP and TIFF are decoded"
    assert report["dropped"] == {reason: 1, "its image was not downloaded": 1}


def test_a_folder_in_place_of_a_picture_is_dropped(tmp_path):
    root = tmp_path / "root"
    put(root / "dataset_flickr30k.json", {"images": [entry("0.jpg"), entry("1.jpg")]})
    put(root / "flickr30k-images" / "0.jpg", photo(0))
    (root / "flickr30k-images" / "1.jpg").mkdir()
    report = prepare("flickr30k", SOURCES["flickr30k"], root, tmp_path / "out", "train", 1, 10)
    assert report["dropped"] == {"its file cannot be read (Is a directory)": 1}


def entry(name):
    return {"filename": name, "split": "train", "sentences": [{"raw": "words"}], "imgid": 0}
