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


def cc12m(root: Path) -> Expected:
    """The address comes first; images bear the number of the row, from 0, and one row's caption holds a tab."""
    lines = [f"http://example.org/{n}.jpg\ta bridge{mark}over river {n}\r\n" for n, mark in enumerate("  \t")]
    put(root / "cc12m.tsv", "".join(lines))
    for n in (0, 2):
        put(root / "images" / f"{n:09d}.jpg", photo(n))
    return Expected(
        {"train": {f"{n:09d}": [f"a bridge over river {n}"] for n in (0, 2)}},
        {"train": {"000000001": "not downloaded"}},
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


def msrvtt_1ka(root: Path) -> Expected:
    """The official files, which mark all videos alike, and the list of those that are held out."""
    for name, numbers in (("train_val_videodatainfo.json", (0, 6600)), ("test_videodatainfo.json", (7010, 7020))):
        videos = [{"video_id": f"video{n}", "split": "train", "category": 3} for n in numbers]
        sentences = [
            {"caption": f"{v['video_id']} shows {k}", "video_id": v["video_id"]} for v in videos for k in (0, 1)
        ]
        put(root / name, {"info": {}, "videos": videos, "sentences": sentences})
        for n in numbers:
            put(root / ("TestVideo" if n > 7009 else "TrainValVideo") / f"video{n}.mp4", clip(5, "mpeg4", "mp4"))
    put(root / "MSRVTT_JSFUSION_test.csv", 'key,vid_key,video_id,sentence\nret0,msr7020,video7020,"one, of twenty"\n')
    said = {n: [f"video{n} shows {k}" for k in range(2)] for n in (0, 6600, 7010)}
    return Expected({"train": {f"video{n}": s for n, s in said.items()}, "test": {"video7020": ["one, of twenty"]}})


def panda70m(root: Path) -> Expected:
    """One row a source video; colons in a name where the file system takes them, and what video2dataset leaves."""
    head = "videoID,url,timestamp,caption,matching_score\n"
    spans = "\"[['0:00:08.875', '0:00:17.000'], ['0:00:17.000', '0:00:20.100']]\""
    row = f"""ab-cd_ef12,http://x,{spans},"['A red car.', ""It's blue.""]","[0.5, 0.44]"\n"""
    short = """zz,http://x,"[['0:00:01.000', '0:00:02.000']]","['one', 'two']","[0.5]"\n"""
    put(root / "panda70m_training_2m.csv", head + row + short)
    put(root / "training" / "ab-cd_ef12_0:00:08.875_0:00:17.000.mp4", clip(5, "mpeg4", "mp4"))
    put(root / "training" / "ab-cd_ef12_0-00-17.000_0-00-20.100.mp4", clip(5, "mpeg4", "mp4"))
    for split in ("validation", "testing"):
        put(root / f"panda70m_{split}.csv", head + row)
        put(root / split / "00000" / "0000000_00000.mp4", clip(5, "mpeg4", "mp4"))
        put(root / split / "00000" / "0000000_00000.txt", f"a car of {split}")
        put(root / split / "00000" / "0000000_00001.json", {"caption": "lost", "status": "failed_to_download"})
    keys = [f"ab-cd_ef12_0-00-{span}" for span in ("08-875_0-00-17-000", "17-000_0-00-20-100")]
    return Expected(
        {
            "train": {keys[0]: ["A red car."], keys[1]: ["It's blue."]},
            "val": {"0000000_00000": ["a car of validation"]},
            "test": {"0000000_00000": ["a car of testing"]},
        },
        {
            "train": {"entry 1": "differ in length"},
            "val": {"0000000_00001": "not downloaded"},
            "test": {"0000000_00001": "not downloaded"},
        },
    )


def internvid(root: Path) -> Expected:
    entries = [
        {"YoutubeID": "HdYoyzCSWyw", "Start_timestamp": f"00:03:1{n}.567", "End_timestamp": f"00:03:1{n}.900"}
        | {"Caption": f"typing {n}", "Aesthetic_Score": 4.5, "UMT_Score": 0.4}
        for n in range(3)
    ]
    lines = [json.dumps(entry) for entry in entries]
    put(root / "InternVid-10M-flt.jsonl", "\n".join([*lines[:2], lines[2][:50]]))
    put(root / "videos" / "HdYoyzCSWyw_00:03:10.567_00:03:10.900.mp4", clip(5, "mpeg4", "mp4"))
    keys = [f"HdYoyzCSWyw_00-03-1{n}-567_00-03-1{n}-900" for n in range(2)]
    return Expected(
        {"train": {keys[0]: ["typing 0"]}},
        {"train": {keys[1]: "file is missing", "entry 2": "a line that is not JSON"}},
    )


def sharegpt4video(root: Path) -> Expected:
    """A caption of the whole video, behind those of what changes from frame to frame."""
    captions = [{"idx": "0", "content": "At first a bay."}, {"idx": "-1", "content": "A boat crosses\na bay."}]
    entry = {"video_id": "pexels_1", "video_path": "pexels/1.mp4", "captions": captions, "zip_folder": "pexels_1.zip"}
    second = entry | {"video_id": "pexels_2", "video_path": "pexels/2.mp4", "captions": captions[:1]}
    put(root / "sharegpt4video_40k.jsonl", "".join(json.dumps(e) + "\n" for e in (entry, second)))
    for n in (1, 2):
        put(root / "videos" / "pexels" / f"{n}.mp4", clip(5, "mpeg4", "mp4"))
    return Expected({"train": {"pexels_1": ["A boat crosses a bay."]}}, {"train": {"pexels_2": "no caption"}})


def lsmdc(root: Path) -> Expected:
    one, two = (f"0001_American_Beauty_00.00.5{n}.926-00.00.54.129" for n in range(2))
    line = "{}\t00.00.51.926\t00.00.54.129\t00.00.51.426\t00.00.54.629\t{}\n"
    text = line.format(one, 'He says "stop.') + line.format(two, "A window.") + line.format(one, "SOMEONE sits.")
    put(root / "LSMDC16_annos_training.csv", text + "lonely\n" + line.split("\t")[0].format(two) + "\t00.00.51.926\n")
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
        {"train": {"entry 2": "1 columns instead of 6", "entry 3": "2 columns instead of 6"}},
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


def easy_vqa(root: Path) -> Expected:
    for split, asked in (
        ("train", [["is it red?", "yes", 0], ["which shape?", "circle", 1], [3]]),
        ("test", [["x?", "no", 0]]),
    ):
        put(root / "easy_vqa" / "data" / split / "questions.json", asked)
        put(root / "easy_vqa" / "data" / split / "images" / "0.png", picture(3))
    return Expected(
        {"train": {"train-0000": ["is it red?"]}, "test": {"test-0000": ["x?"]}},
        {"train": {"train-0001": "file is missing", "entry 2": "not of the expected form"}},
    )


def snli_ve(root: Path) -> Expected:
    def line(image: str, number: int, label: str) -> dict[str, str]:
        said = {"sentence2": f"Somebody waits {number} hours.", "gold_label": label}
        return {"Flickr30K_ID": image, "pairID": f"{image}.jpg#{number}r1n"} | said

    lines = {
        "train": [line("11", 0, "entailment"), line("12", 1, "neutral"), line("11", 2, "-"), line("13", 3, "neutral")],
        "dev": [line("14", 0, "neutral")],
        "test": [line("15", 0, "contradiction")],
    }
    for part, entries in lines.items():
        put(root / f"snli_ve_{part}.jsonl", "".join(json.dumps(entry) + "\n" for entry in entries))
    for number in (11, 12, 14, 15):
        put(root / "flickr30k-images" / f"{number}.jpg", photo(number))
    said = [f"Somebody waits {n} hours." for n in range(2)]
    return Expected(
        {"train": {"11": said[:1], "12": said[1:]}, "val": {"14": said[:1]}, "test": {"15": said[:1]}},
        {"train": {"13": "file is missing"}},
    )


LAYOUTS: dict[str, Callable[[Path], Expected]] = {
    make.__name__: make
    for make in (
        *(coco, flickr30k, visual_genome, sbu, cc3m, cc12m, webvid, panda70m, internvid, sharegpt4video),
        *(msrvtt, msrvtt_1ka, lsmdc, vqav2, nlvr2, easy_vqa, snli_ve),
    )
}
