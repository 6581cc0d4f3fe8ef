"""Small folders of the public data sets' true layouts: the files that their owners distribute, with a fault or two."""

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .synthetic import clip, picture


@dataclass
class Expected:
    """What is to come out of a layout, by split."""

    captions: dict[str, dict[str, list[str]]]
    """Key → captions."""
    dropped: dict[str, dict[str, str]] = field(default_factory=dict)
    """Key → part of the reason."""


def put(path: Path, content: bytes | str | Any) -> None:
    """Write bytes, text, or anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, bytes | str):
        content = json.dumps(content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def photo(seed: int) -> bytes:
    return picture(seed, "JPEG")


def coco(root: Path) -> Expected:
    entries = []
    for number, (split, folder) in enumerate(
        [
            ("train", "train2014"),
            ("restval", "val2014"),
            ("val", "val2014"),
            ("test", "val2014"),
            ("train", "train2014"),
        ]
    ):
        name = f"COCO_{folder}_{number:012d}.jpg"
        sentences = [{"tokens": ["a"], "raw": f"Thing {number} seen {k} times.", "sentid": k} for k in range(3)]
        entry = {"filepath": folder, "filename": name, "split": split, "sentences": sentences, "cocoid": number}
        entries.append(entry | {"imgid": number, "sentids": [0, 1, 2]})
        put(root / folder / name, photo(number))
    put(root / "train2014" / "COCO_train2014_000000000004.jpg", b"GIF89a no picture")
    entries.append({"filepath": "train2014", "split": "train"})
    put(root / "dataset_coco.json", {"images": entries, "dataset": "coco"})
    said = {n: [f"Thing {n} seen {k} times." for k in range(3)] for n in range(4)}
    return Expected(
        {
            "train": {"COCO_train2014_000000000000": said[0], "COCO_val2014_000000000001": said[1]},
            "val": {"COCO_val2014_000000000002": said[2]},
            "test": {"COCO_val2014_000000000003": said[3]},
        },
        {"train": {"COCO_train2014_000000000004": "cannot be decoded", "entry 5": "'filename' is missing"}},
    )


def flickr30k(root: Path) -> Expected:
    entries = []
    for number, split in enumerate(("train", "val", "test")):
        put(root / "flickr30k-images" / f"{number}.jpg", photo(number))
        sentences = [{"raw": f"Person {number} {verb} .", "sentid": 0, "tokens": []} for verb in ("runs", "sits")]
        entries.append({"filename": f"{number}.jpg", "split": split, "sentences": sentences, "imgid": number})
    put(root / "dataset_flickr30k.json", {"images": entries, "dataset": "flickr30k"})
    said = {n: [f"Person {n} runs .", f"Person {n} sits ."] for n in range(3)}
    return Expected({"train": {"0": said[0]}, "val": {"1": said[1]}, "test": {"2": said[2]}})


def visual_genome(root: Path) -> Expected:
    put(root / "VG_100K" / "1.jpg", photo(1))
    put(root / "VG_100K_2" / "2.jpg", photo(2))
    put(root / "VG_100K_2" / "4.jpg", b"")
    regions = {1: ["the clock is green", "a man  on a bench"], 2: ["white van"], 3: ["nowhere"], 4: ["empty"]}
    tree = [
        {"id": i, "regions": [{"region_id": k, "image_id": i, "phrase": p, "x": 0} for k, p in enumerate(phrases)]}
        for i, phrases in regions.items()
    ]
    put(root / "region_descriptions.json", [*tree, {"id": 5, "regions": []}])
    put(root / "VG_100K" / "5.jpg", photo(5))
    return Expected(
        {"train": {"1": ["the clock is green", "a man on a bench"], "2": ["white van"]}},
        {"train": {"3": "its file is missing", "4": "its file is empty", "5": "no caption"}},
    )


def sbu(root: Path) -> Expected:
    urls = [f"http://static.flickr.com/2723/{n}_b0f2.jpg" for n in range(4)]
    put(root / "sbu-captions-all.json", {"image_urls": urls, "captions": [f"my dog {n}" for n in range(4)]})
    put(root / "images" / "0_b0f2.jpg", photo(0))
    put(root / "images" / "deep" / "2_b0f2.jpg", photo(2))
    put(root / "images" / "deep" / "3_b0f2.jpg", photo(3)[:-40])
    return Expected(
        {"train": {"000000000": ["my dog 0"], "000000002": ["my dog 2"]}},
        {"train": {"000000001": "not downloaded", "000000003": "is truncated"}},
    )


def cc3m(root: Path) -> Expected:
    """As the well-known downloader leaves it: ROW_CRC32 without an ending."""
    urls = [f"http://example.org/{n}/image.jpg" for n in range(4)]
    lines = [f'a "very old building {n}\t{url}\n'.encode() for n, url in enumerate(urls)]
    lines[3] = b"caf\xe9 by night\t" + urls[3].encode() + b"\n"
    put(root / "Train_GCC-training.tsv", b"".join(lines) + b"no address\n")
    put(root / "Validation_GCC-1.1.0-Validation.tsv", lines[0])
    for n in (0, 1, 3):
        put(root / "training" / f"{n}_{zlib.crc32(urls[n].encode())}", photo(n))
    put(root / "validation" / f"0_{zlib.crc32(urls[0].encode())}", picture(0, "WEBP"))
    return Expected(
        {
            "train": {f"{n:09d}": [f'a "very old building {n}'] for n in (0, 1)},
            "val": {"000000000": ['a "very old building 0']},
        },
        {"train": {"000000002": "not downloaded", "000000003": "not UTF-8", "000000004": "no URL"}},
    )


def webvid(root: Path) -> Expected:
    head = "videoid,contentUrl,duration,page_dir,name\n"
    rows = '7,http://x/7,PT00H00M11S,000001_000050,"Boats, at sea"\n7,http://x/7,PT1S,000001_000050,Again\n'
    put(root / "results_2M_train.csv", head + rows + "8,http://x/8,PT1S,000001_000050,Lost\nshort,row\n")
    put(root / "results_2M_val.csv", head + "9,http://x/9,PT1S,000051_000100,Fog\n")
    put(root / "videos" / "000001_000050" / "7.mp4", clip(5, "mpeg4", "mp4"))
    put(root / "videos" / "000051_000100" / "9.mp4", clip(5, "mpeg4", "mp4"))
    return Expected(
        {"train": {"7": ["Boats, at sea"]}, "val": {"9": ["Fog"]}},
        {"train": {"7": "repeats that of an earlier", "8": "file is missing", "entry 3": "2 columns instead of 5"}},
    )


def msrvtt(root: Path) -> Expected:
    for name, videos in (
        ("train_val_videodatainfo.json", {"video0": "train", "video1": "validate", "video2": "train"}),
        ("test_videodatainfo.json", {"video3": "test"}),
    ):
        folder = "TestVideo" if "test_" in name else "TrainValVideo"
        tree: dict[str, Any] = {"info": {}, "videos": [], "sentences": []}
        for video, split in videos.items():
            tree["videos"].append({"video_id": video, "split": split, "category": 3, "id": 0, "start time": 1.0})
            tree["sentences"] += [{"caption": f"{video} shows {k}", "video_id": video, "sen_id": k} for k in range(2)]
            put(root / folder / f"{video}.mp4", clip(5, "mpeg4", "mp4"))
        put(root / name, tree)
    put(root / "TrainValVideo" / "video2.mp4", clip(5, "mpeg4", "mp4")[:60])
    said = {n: [f"video{n} shows {k}" for k in range(2)] for n in range(4)}
    return Expected(
        {"train": {"video0": said[0]}, "val": {"video1": said[1]}, "test": {"video3": said[3]}},
        {"train": {"video2": "cannot be opened or is truncated"}},
    )


def lsmdc(root: Path) -> Expected:
    one, two = (f"0001_American_Beauty_00.00.5{n}.926-00.00.54.129" for n in range(2))
    line = "{}\t00.00.51.926\t00.00.54.129\t00.00.51.426\t00.00.54.629\t{}\n"
    text = line.format(one, 'He says "stop.') + line.format(two, "A window.") + line.format(one, "SOMEONE sits.")
    put(root / "LSMDC16_annos_training.csv", text + "lonely\n")
    put(root / "LSMDC16_annos_val.csv", line.format(two, "A window."))
    put(root / "LSMDC16_challenge_1000_publictect.csv", line.format(one, "SOMEONE sits."))
    for name in (one, two):
        put(root / "avi" / "0001_American_Beauty" / f"{name}.avi", clip(5, "mpeg4", "avi"))
    keys = [name.replace(".", "-") for name in (one, two)]
    return Expected(
        {
            "train": {keys[0]: ['He says "stop.', "SOMEONE sits."], keys[1]: ["A window."]},
            "val": {keys[1]: ["A window."]},
            "test": {keys[0]: ["SOMEONE sits."]},
        },
        {"train": {"entry 2": "1 columns instead of 6"}},
    )


def vqav2(root: Path) -> Expected:
    expected: dict[str, dict[str, list[str]]] = {}
    for split, part in (("train", "train2014"), ("val", "val2014"), ("test", "test2015")):
        asked = [
            {"image_id": 9, "question_id": 9000 + k, "question": q}
            for k, q in enumerate(("What is  it?", "Is it red?"))
        ]
        put(root / f"v2_OpenEnded_mscoco_{part}_questions.json", {"questions": asked, "data_type": "mscoco"})
        if split != "test":
            known = [
                {
                    "question_id": q["question_id"],
                    "image_id": 9,
                    "multiple_choice_answer": "yes",
                    "answer_type": "yes/no",
                    "question_type": "is it",
                    "answers": [
                        {"answer": "yes" if k else "no", "answer_confidence": "yes", "answer_id": k} for k in range(10)
                    ],
                }
                for q in asked
            ]
            put(root / f"v2_mscoco_{part}_annotations.json", {"annotations": known})
        put(root / part / f"COCO_{part}_000000000009.jpg", photo(9))
        expected[split] = {f"COCO_{part}_000000000009": ["What is it?", "Is it red?"]}
    return Expected(expected)


def nlvr2(root: Path) -> Expected:
    lines = [
        {"identifier": f"train-1-{pair}-{k}", "sentence": f"There are {k}  dogs.", "label": "True" if k else "False"}
        | {"directory": "53", "left_url": "", "right_url": ""}
        for pair, k in ((0, 0), (0, 1), (1, 0))
    ]
    put(root / "train.json", "".join(json.dumps(entry) + "\n" for entry in lines))
    for name in ("train-1-0-img0", "train-1-0-img1", "train-1-1-img0"):
        put(root / "images" / "train" / "53" / f"{name}.png", picture(1))
    for part in ("dev", "test1"):
        entry = {"identifier": f"{part}-8-0-0", "sentence": "Two cats.", "label": "True"}
        put(root / f"{part}.json", json.dumps(entry) + "\n")
        for k in range(2):
            put(root / "images" / part / f"{part}-8-0-img{k}.png", picture(k))
    return Expected(
        {
            "train": {"train-1-0": ["There are 0 dogs.", "There are 1 dogs."]},
            "val": {"dev-8-0": ["Two cats."]},
            "test": {"test1-8-0": ["Two cats."]},
        },
        {"train": {"train-1-1": "file is missing"}},
    )


LAYOUTS: dict[str, Callable[[Path], Expected]] = {
    make.__name__: make for make in (coco, flickr30k, visual_genome, sbu, cc3m, webvid, msrvtt, lsmdc, vqav2, nlvr2)
}
