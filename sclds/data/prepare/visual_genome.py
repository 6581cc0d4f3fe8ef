"""Visual Genome: the phrases of an image's regions are its captions."""

import os
from pathlib import Path
from typing import Any

from sclds.data.prepare.lists import json_entries, read_text
from sclds.data.prepare.records import Record, Records, each, parts

_FOLDERS = ("VG_100K", "VG_100K_2")


def read_visual_genome(root: Path, split: str) -> Records:
    """Read region_descriptions.json (5 million regions) image by image; there is one split."""
    path = root / "region_descriptions.json"
    place = {name: root / folder / name for folder in _FOLDERS for name in os.listdir(root / folder)}

    def make(entry: Any) -> Record:
        name = f"{int(entry['id'])}.jpg"
        file = place.get(name, root / _FOLDERS[0] / name)
        phrases = parts(entry["regions"], "phrase")
        return Record(str(entry["id"]), (("", str(file)),), phrases, {"image_id": entry["id"]})

    text = read_text(path)
    entries = json_entries(text, path, "Visual Genome's list of {id, regions: [{phrase}]}")
    return Records(each(path, entries, make), text.count('"regions"'))
