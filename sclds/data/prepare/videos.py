"""WebVid and LSMDC: tables of videos with their captions, and the videos as files."""

from pathlib import Path
from typing import Any

from sclds.data.prepare.lists import Numbered, line_count, named_rows, table_rows
from sclds.data.prepare.records import Record, Records, each, key_of

LSMDC = {
    "train": "LSMDC16_annos_training.csv",
    "val": "LSMDC16_annos_val.csv",
    "test": "LSMDC16_challenge_1000_publictect.csv",
}
LSMDC_FOLDERS = ("avi", "videos")
_LSMDC_COLUMNS = 6
_WEBVID_COLUMNS = ("videoid", "page_dir", "name")


def read_webvid(root: Path, split: str) -> Records:
    """Read results_2M_{train,val}.csv; videos lie in videos/<page_dir>/<videoid>.mp4.

    Raises:
        DataError: The first line does not name the columns.
    """
    path = root / f"results_2M_{split}.csv"

    def make(entry: dict[str, str]) -> Record:
        file = root / "videos" / entry["page_dir"] / f"{entry['videoid']}.mp4"
        fields = {"videoid": entry["videoid"], "duration": entry.get("duration", "")}
        return Record(key_of(entry["videoid"]), (("", str(file)),), (entry["name"],), fields)

    return Records(each(path, named_rows(path, _WEBVID_COLUMNS, "WebVid's CSV"), make), line_count(path))


def read_lsmdc(root: Path, split: str) -> Records:
    """Read a table without header; videos lie in avi/<movie>/<video>.avi, and several lines may speak of one video."""
    path = root / LSMDC[split]
    folder = next((root / name for name in LSMDC_FOLDERS if (root / name).is_dir()), root)
    sentences: dict[str, list[str]] = {}
    unread = []
    for line, row in table_rows(path, "\t", quoting=False):
        if len(row) >= _LSMDC_COLUMNS and row[0].strip():
            sentence = "\t".join(row[_LSMDC_COLUMNS - 1 :])  # which may hold tabs
            sentences.setdefault(row[0].strip(), []).append(sentence)
        elif row:
            unread.append(Numbered(line, ValueError(f"{len(row)} columns instead of {_LSMDC_COLUMNS}")))

    def make(entry: Any) -> Record:
        video, captions = entry
        movie = video.rpartition("_")[0]  # 0001_American_Beauty_00.00.51.926-00.00.54.129
        file = folder / movie / f"{video}.avi"
        return Record(key_of(video), (("", str(file)),), tuple(captions), {"clip": video, "movie": movie})

    entries = [*sentences.items(), *unread]
    return Records(each(path, entries, make), len(entries))
