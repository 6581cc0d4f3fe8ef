"""What the faults of lists are made of: a folder that a source reads, and the captions that must come out."""

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from .layouts import photo
from .synthetic import clip

URLS = [f"http://example.org/{n}/image.jpg" for n in range(6)]
TSV = "Train_GCC-training.tsv"
CSV_HEAD = "videoid,contentUrl,duration,page_dir,name\n"
image, video = cache(lambda: photo(1)), cache(lambda: clip(2, "mpeg4", "mp4"))


@dataclass(frozen=True)
class Case:
    """A folder that a source reads, and the captions that must come out; none for a list that is refused."""

    source: str
    files: dict[str, Any]
    captions: list[list[str]] = field(default_factory=list)
    split: str = "train"
    options: dict[str, int] = field(default_factory=dict)


def cc3m(images: dict[str, int], rows: int = 6, head: str = "", tail: str = "\n", **options: int) -> Case:
    """A list and images by name; the number is the row whose caption is right, counted without the header."""
    text = head + "\n".join(f"building {n}\t{URLS[n]}" for n in range(rows)) + tail
    captions = [[f"building {n}"] for n in sorted(images.values())]
    return Case("cc3m", {TSV: text} | {f"training/{name}": image() for name in images}, captions, options=options)


def refused(case: Case, **changes: Any) -> Case:
    return Case(case.source, case.files | changes.pop("files", {}), [], case.split, case.options)


def one_row(caption: str | bytes, form: Callable[[bytes], bytes] = bytes) -> Case:
    """A list of two rows, of which the first has an odd caption; the second must come out."""
    odd = caption if isinstance(caption, bytes) else caption.encode()
    text = form(odd + b"\t" + URLS[0].encode() + b"\nsecond\t" + URLS[1].encode() + b"\n")
    files = {f"training/{n}_{zlib.crc32(URLS[n].encode())}": image() for n in range(2)}
    return Case("cc3m", {TSV: text} | files, [["second"]])


def with_first(case: Case, caption: str) -> Case:
    return Case(case.source, case.files, [[caption], *case.captions])


def webvid(rows: str, *captions: str, head: str = CSV_HEAD) -> Case:
    files = {f"videos/000001/{n}.mp4": video() for n in range(1, 5)}
    return Case("webvid", {"results_2M_train.csv": head + rows} | files, [[caption] for caption in captions])


def karpathy(*sentences: Any, captions: list[str] | None) -> Case:
    tree = {"images": [{"filename": "0.jpg", "split": "train", "sentences": list(sentences), "imgid": 0}]}
    files = {"dataset_flickr30k.json": tree, "flickr30k-images/0.jpg": image()}
    return Case("flickr30k", files, [captions] if captions else [])


def sbu(tree: Any, name: str = "annot.json", **files: Any) -> Case:
    files = files or {"images/5_ab.jpg": image()}
    return Case("sbu", {name: tree} | files, [["five cats"]])


def sbu_texts(urls: str, captions: str) -> Case:
    files = {"SBU_captioned_photo_dataset_urls.txt": urls, "SBU_captioned_photo_dataset_captions.txt": captions}
    return Case("sbu", files | {"images/4_cd.jpg": image(), "images/5_ab.jpg": image()})


def several(named: dict[str, str], images: list[str] | None = None, captions: list[str] | None = None) -> Case:
    """A JSON of captions by file name, and the images that are there; all of them if nothing is said."""
    files = {f"images/{name}": image() for name in images or named}
    return Case("sbu", {"annot.json": named} | files, [[caption] for caption in captions or named.values()])


def table(text: str, captions: str) -> Case:
    """A TSV with an address at each {}, and images that are named by its checksum."""
    count = text.count("{}")
    images = {f"training/{n}_{zlib.crc32(URLS[n].encode())}": image() for n in range(count)}
    return Case("cc3m", {TSV: text.format(*URLS)} | images, [[caption] for caption in captions.split("|")])


def regions(*numbers: int) -> str:
    return json.dumps([{"id": n, "regions": [{"phrase": str(n)}]} for n in numbers])


def internvid_line(caption: str, video: str = "a") -> str:
    entry = {"YoutubeID": video, "Start_timestamp": "1", "End_timestamp": "2", "Caption": caption}
    return json.dumps(entry, ensure_ascii=False)


def msrvtt(marks: list[str], split: str, captions: list[list[str]], first: int = 6512) -> Case:
    """Videos from video6512 on, the last of the official training split."""
    videos = [{"video_id": f"video{first + n}", "split": mark} for n, mark in enumerate(marks)]
    sentences = [{"video_id": v["video_id"], "caption": f"it is {v['video_id']}"} for v in videos]
    files = {"train_val_videodatainfo.json": {"videos": videos, "sentences": sentences}}
    return Case("msrvtt", files | {f"TrainValVideo/{v['video_id']}.mp4": video() for v in videos}, captions, split)


HEAD = "caption\turl\n"
SIDECARS = {
    f"training/000{n}/000.{ending}": content
    for n in range(2)
    for ending, content in (("jpg", photo(1)), ("json", {"caption": f"own {n}", "url": "http://x"}))
}
PARTS = {f"videos/{name}_1_2.mp4": video() for name in "ab"}
REGIONS = {"VG_100K/1.jpg": image(), "VG_100K_2/2.jpg": image()}
