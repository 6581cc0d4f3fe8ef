"""WebVid, MSR-VTT and LSMDC: tables of videos with their captions, and the videos as files."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from sclds.config.errors import DataError
from sclds.data.prepare.records import Record, Records, each, key_of, line_count, read_json, table_rows

MSRVTT = {
    "train": ("train_val_videodatainfo.json", "TrainValVideo", "train"),
    "val": ("train_val_videodatainfo.json", "TrainValVideo", "validate"),
    "test": ("test_videodatainfo.json", "TestVideo", "test"),
}
LSMDC = {
    "train": "LSMDC16_annos_training.csv",
    "val": "LSMDC16_annos_val.csv",
    "test": "LSMDC16_challenge_1000_publictect.csv",
}
LSMDC_FOLDERS = ("avi", "videos")
_WEBVID_COLUMNS = ("videoid", "page_dir", "name")


def read_webvid(root: Path, split: str) -> Records:
    """Read results_2M_{train,val}.csv; clips lie in videos/<page_dir>/<videoid>.mp4.

    Raises:
        DataError: The first line does not name the columns.
    """
    path = root / f"results_2M_{split}.csv"
    rows = table_rows(path)
    header = next(rows, [])
    lacking = [name for name in _WEBVID_COLUMNS if name not in header]
    if lacking:
        raise DataError(f"{path} has no column {', '.join(lacking)}: expected WebVid's CSV with {_WEBVID_COLUMNS}")

    def make(row: list[str]) -> Record:
        if len(row) != len(header):
            raise ValueError(f"{len(row)} columns instead of {len(header)}")
        entry = dict(zip(header, row, strict=True))
        file = root / "videos" / entry["page_dir"] / f"{entry['videoid']}.mp4"
        fields = {"videoid": entry["videoid"], "duration": entry.get("duration", "")}
        return Record(key_of(entry["videoid"]), (("", str(file)),), (entry["name"],), fields)

    return Records(each(path, rows, make), line_count(path) - 1)


def read_msrvtt(root: Path, split: str) -> Records:
    """Read the videodatainfo JSON; clips lie in TrainValVideo and TestVideo, 20 captions each."""
    name, folder, part = MSRVTT[split]
    path = root / name
    tree = read_json(path, "MSR-VTT's videodatainfo with 'videos' and 'sentences'", "videos", "sentences")
    captions: dict[str, list[str]] = defaultdict(list)
    for sentence in tree["sentences"]:
        if isinstance(sentence, dict):
            captions[str(sentence.get("video_id"))].append(sentence.get("caption", ""))

    def make(entry: Any) -> Record | None:
        if entry["split"] != part:
            return None
        video = str(entry["video_id"])
        file = root / folder / f"{video}.mp4"
        fields = {"video_id": video, "category": entry.get("category")}
        return Record(key_of(video), (("", str(file)),), tuple(captions[video]), fields)

    wanted = sum(isinstance(v, dict) and v.get("split") == part for v in tree["videos"])
    return Records(each(path, tree["videos"], make), wanted)


def read_lsmdc(root: Path, split: str) -> Records:
    """Read a table without header; clips lie in avi/<movie>/<clip>.avi, and several lines may speak of one clip."""
    path = root / LSMDC[split]
    folder = next((root / name for name in LSMDC_FOLDERS if (root / name).is_dir()), root)
    sentences: dict[str, list[str]] = {}
    unread = []
    for row in table_rows(path, "\t", quoting=False):
        if len(row) > 1 and row[0]:
            sentences.setdefault(row[0], []).append(row[-1])
        else:
            unread.append(row)

    def make(entry: Any) -> Record:
        if isinstance(entry, list):
            raise ValueError(f"{len(entry)} columns instead of 6")
        video, captions = entry
        movie = video.rpartition("_")[0]  # 0001_American_Beauty_00.00.51.926-00.00.54.129
        file = folder / movie / f"{video}.avi"
        return Record(key_of(video), (("", str(file)),), tuple(captions), {"clip": video, "movie": movie})

    entries = [*sentences.items(), *unread]
    return Records(each(path, entries, make), len(entries))
