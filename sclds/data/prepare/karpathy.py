"""COCO and Flickr30k in Karpathy's split: one JSON with the sentences and the split of every image."""

from pathlib import Path
from typing import Any

from sclds.data.prepare.lists import read_json
from sclds.data.prepare.records import Record, Records, each, key_of, parts

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
        file = folder_of(entry) / name
        fields = {number: entry[number]} if number in entry else {}
        return Record(key_of(Path(name).stem), (("", str(file)),), parts(entry["sentences"], "raw"), fields)

    wanted = sum(isinstance(i, dict) and _SPLIT_OF.get(str(i.get("split"))) == split for i in images)
    return Records(each(path, images, make), wanted)
