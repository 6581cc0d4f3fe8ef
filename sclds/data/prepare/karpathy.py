"""COCO and Flickr30k in Karpathy's split: one JSON with the sentences and the split of every image."""

from pathlib import Path
from typing import Any

from sclds.data.prepare.records import Record, Records, each, key_of, read_json

_SPLIT_OF = {"train": "train", "restval": "train", "val": "val", "test": "test"}
"""`restval` is the part of COCO's validation images that everyone trains on."""


def read_coco(root: Path, split: str) -> Records:
    """Read dataset_coco.json; images lie in train2014 and val2014."""
    return _read(root / "dataset_coco.json", split, lambda entry: root / entry["filepath"], "cocoid")


def read_flickr30k(root: Path, split: str) -> Records:
    """Read dataset_flickr30k.json; images lie in flickr30k-images."""
    return _read(root / "dataset_flickr30k.json", split, lambda entry: root / "flickr30k-images", "imgid")


def _read(path: Path, split: str, folder_of: Any, number: str) -> Records:
    images = read_json(path, "a Karpathy split with 'images'", "images")["images"]

    def make(entry: Any) -> Record | None:
        if _SPLIT_OF[entry["split"]] != split:
            return None
        name = str(entry["filename"])
        captions = tuple(sentence["raw"] for sentence in entry["sentences"])
        file = folder_of(entry) / name
        return Record(key_of(Path(name).stem), (("", str(file)),), captions, {number: entry[number]})

    wanted = sum(isinstance(i, dict) and _SPLIT_OF.get(i.get("split", "")) == split for i in images)
    return Records(each(path, images, make), wanted)
