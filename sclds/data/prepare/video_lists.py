"""Panda-70M, InternVid and ShareGPT4Video: lists of parts of public videos, and the parts cut out as files.

Panda-70M and InternVid name a YouTube video and times in it. Files are looked up by these, ID_START_END.mp4, as the
list writes the times; where a file system takes no colons, with - for each. Or they are what video2dataset wrote as
`files`, captions beside the videos.
"""

import ast
from pathlib import Path
from typing import Any

from sclds.data.prepare.lists import first_file, json_lines, line_count, named_rows
from sclds.data.prepare.records import Dropped, Record, Records, each, key_of
from sclds.data.prepare.sidecars import has_sidecars, read_sidecars

PANDA70M = {
    "train": ("panda70m_training_2m.csv|panda70m_training_10m.csv|panda70m_training_full.csv", "training"),
    "val": ("panda70m_validation.csv", "validation"),
    "test": ("panda70m_testing.csv", "testing"),
}
_INTERNVID_LISTS = ("10M-flt", "10M-FLT-INFO", "10M-DIV", "full")
INTERNVID = {"train": ("|".join(f"InternVid-{name}.jsonl" for name in _INTERNVID_LISTS), "videos")}
SHAREGPT4VIDEO = {"train": ("sharegpt4video_40k.jsonl", "videos")}
_PANDA_COLUMNS = ("videoID", "timestamp", "caption")
_WHOLE_VIDEO = "-1"
"""The `idx` of ShareGPT4Video's caption of a whole video; the others tell what changes between two of its frames."""


def read_panda70m(root: Path, split: str) -> Records:
    """Read a CSV with one row a source video: lists of times and captions, an item for each part.

    Raises:
        DataError: The first line does not name the columns.
    """
    names, folder = PANDA70M[split]
    path = first_file(root, names.split("|"))
    if has_sidecars(root / folder, "video"):
        return _variant(read_sidecars(root / folder, "video"), path)

    def make(entry: dict[str, str]) -> list[Record | Dropped]:
        times, captions = _literal(entry, "timestamp"), _literal(entry, "caption")
        if len(times) != len(captions):
            raise ValueError("lists of times and captions that differ in length")
        made: list[Record | Dropped] = []
        for number, (span, caption) in enumerate(zip(times, captions, strict=True)):
            video = entry["videoID"]
            if not (isinstance(span, list | tuple) and len(span) == 2):
                made.append(Dropped(key_of(f"{video}_{number}"), video, "its times are not a beginning and an end"))
                continue
            fields = {"videoID": video, "times": list(span)}
            made.append(_part(root / folder, video, str(span[0]), str(span[1]), caption, fields))
        return made

    return _variant(Records(each(path, named_rows(path, _PANDA_COLUMNS, "Panda-70M's CSV"), make)), path)


def read_internvid(root: Path, split: str) -> Records:
    """Read a file of JSON lines, one a part of a video."""
    names, folder = INTERNVID[split]
    path = first_file(root, names.split("|"))
    if has_sidecars(root / folder, "video"):
        return _variant(read_sidecars(root / folder, "video"), path)

    def make(entry: Any) -> Record:
        video, begin, end = (str(entry[name]) for name in ("YoutubeID", "Start_timestamp", "End_timestamp"))
        fields = {"YoutubeID": video, "times": [begin, end]}
        fields |= {name: entry[name] for name in ("Aesthetic_Score", "UMT_Score") if name in entry}
        return _part(root / folder, video, begin, end, entry["Caption"], fields)

    return _variant(Records(each(path, json_lines(path, "InternVid's JSON lines"), make), line_count(path)), path)


def read_sharegpt4video(root: Path, split: str) -> Records:
    """Read a file of JSON lines; videos lie in videos/<video_path>, and of the captions that of the whole is taken."""
    name, folder = SHAREGPT4VIDEO[split]
    path = root / name

    def make(entry: Any) -> Record:
        captions = entry["captions"]
        whole = [c.get("content") for c in captions if isinstance(c, dict) and str(c.get("idx")) == _WHOLE_VIDEO]
        file = root / folder / str(entry["video_path"])
        return Record(key_of(str(entry["video_id"])), (("", str(file)),), tuple(whole), {"video_id": entry["video_id"]})

    return Records(each(path, json_lines(path, "ShareGPT4Video's JSON lines"), make), line_count(path))


def _variant(records: Records, path: Path) -> Records:
    return Records(records.items, records.count, (*records.notes, f"the list is {path.name}"), path.name)


def _literal(entry: dict[str, str], name: str) -> list[Any]:
    """Return the list that a cell holds, written as Python writes it."""
    try:
        found = ast.literal_eval(entry[name])
    except (ValueError, SyntaxError, MemoryError, RecursionError) as fault:
        raise ValueError(f"no list under {name!r}") from fault
    if not isinstance(found, list):
        raise ValueError(f"no list under {name!r}")
    return found


def _part(folder: Path, video: str, begin: str, end: str, caption: Any, fields: dict[str, Any]) -> Record:
    """Return the record of a part of a video."""
    stem = f"{video}_{begin}_{end}"
    places = [folder / f"{name}.mp4" for name in (stem, stem.replace(":", "-"))]
    file = next((place for place in places if place.is_file()), places[0])
    return Record(key_of(stem), (("", str(file)),), (caption,), fields)
