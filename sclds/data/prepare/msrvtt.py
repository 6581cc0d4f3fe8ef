"""MSR-VTT in its official split, and in 1k-A, the one that papers on retrieval report."""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sclds.config.errors import DataError
from sclds.data.prepare.lists import first_file, named_rows, read_json
from sclds.data.prepare.records import Record, Records, each, key_of

_TOGETHER = "MSRVTT_data.json"
"""Both official files in one, as retrieval code passes them on; it marks all videos alike."""
_TRAIN_VAL, _TEST = "train_val_videodatainfo.json", "test_videodatainfo.json"
_FOLDERS = ("TrainValVideo", "TestVideo", "videos/all", "all", "videos")
_OFFICIAL = {"train": range(6513), "val": range(6513, 7010), "test": range(7010, 10_000)}
"""Numbers of the videos of each split, `video0` to `video9999`."""
_MARKS = {"train": "train", "val": "validate", "test": "test"}
_TEST_1KA = "MSRVTT_JSFUSION_test.csv"
_HELD_1KA = 1000
_OTHER_1KA = (
    "{} names {} videos, and the split of papers holds out 1000, so results compare with theirs only if it is whole"
)
_FORM = "MSR-VTT's videodatainfo with 'videos' and 'sentences'"

MSRVTT = {
    "train": (f"{_TRAIN_VAL}|{_TOGETHER}", "TrainValVideo|videos/all|all|videos"),
    "val": (f"{_TRAIN_VAL}|{_TOGETHER}", "TrainValVideo|videos/all|all|videos"),
    "test": (f"{_TEST}|{_TOGETHER}", "TestVideo|videos/all|all|videos"),
}
MSRVTT_1KA = {
    "train": (_TEST_1KA, f"{_TRAIN_VAL}|{_TOGETHER}", f"{_TEST}|{_TOGETHER}", "TrainValVideo|videos/all|all|videos"),
    "test": (_TEST_1KA, "TestVideo|videos/all|all|videos"),
}


def read_msrvtt(root: Path, split: str) -> Records:
    """Read the official split out of the videodatainfo JSON, 20 captions a video.

    Raises:
        DataError: The file marks all videos alike, and their numbers are not the official ones.
    """
    path = first_file(root, (_TEST if split == "test" else _TRAIN_VAL, _TOGETHER))
    tree = read_json(path, _FORM, "videos", "sentences")
    captions = _captions([tree])
    marks = {str(video["split"]) for video in tree["videos"] if isinstance(video, dict) and "split" in video}
    marked = len(marks) > 1 or (marks == {"test"} and path.name == _TEST)

    def make(entry: Any) -> Record | None:
        video = str(entry["video_id"])
        here = entry["split"] == _MARKS[split] if marked else _number(video) in _OFFICIAL[split]
        return _record(root, entry, captions[video]) if here else None

    if marked:
        note = "the official split, as the list marks it"
        wanted = sum(isinstance(v, dict) and v.get("split") == _MARKS[split] for v in tree["videos"])
    else:
        numbers = [_number(str(video.get("video_id"))) for video in tree["videos"] if isinstance(video, dict)]
        wanted = sum(number in _OFFICIAL[split] for number in numbers)
        span = f"video{_OFFICIAL[split][0]} to video{_OFFICIAL[split][-1]}"
        alike = f"marks all videos {', '.join(map(repr, sorted(marks))) or 'alike'}"
        if not wanted:
            raise DataError(f"{path} {alike}, and holds none of {span}, which are the official {split} split")
        note = f"the official split by numbers, {span}, since {path.name} {alike}"
    return Records(each(path, tree["videos"], make), wanted, (note,))


def read_msrvtt_1ka(root: Path, split: str) -> Records:
    """Read 1k-A: the 1000 videos of MSRVTT_JSFUSION_test.csv, one sentence each, and all others to train on.

    Raises:
        DataError: The list is not whole, or names videos that the annotations do not know.
    """
    path = root / _TEST_1KA
    rows = list(named_rows(path, ("video_id", "sentence"), "the list of 1k-A"))
    broken = next((row for row in rows if isinstance(row.value, ValueError)), None)
    if broken is not None or not rows:
        where = f"{path}, line {broken.line} is no row ({broken.value})" if broken else f"{path} holds no row"
        raise DataError(f"{where}: a video that it lacks would be trained on, so it must be whole; download it again")
    held = {row["video_id"].strip() for _, row in rows}
    notes = (_OTHER_1KA.format(path.name, len(held)),) if len(held) != _HELD_1KA else ()
    if split == "test":

        def tested(row: dict[str, str]) -> Record:
            return _record(root, {"video_id": row["video_id"].strip()}, [row["sentence"]])

        note = f"the split 1k-A: the {len(held)} videos of {path.name}"
        return Records(each(path, rows, tested), len(rows), (note, *notes))
    together = root / _TOGETHER
    paths = [together] if together.is_file() else [root / _TRAIN_VAL, root / _TEST]
    trees = [read_json(one, _FORM, "videos", "sentences") for one in paths]
    captions = _captions(trees)

    def make(entry: Any) -> Record | None:
        video = str(entry["video_id"])
        return None if video in held else _record(root, entry, captions[video])

    videos = [video for tree in trees for video in tree["videos"]]
    unknown = sorted(held - {str(video.get("video_id")) for video in videos if isinstance(video, dict)})
    if unknown:
        raise DataError(
            f"{path} names {unknown[0]}, as {len(unknown)} in all, which is no video of "
            f"{' and '.join(one.name for one in paths)}: it cannot be told which would be trained on that should be "
            f"held out; take all of these files from one release"
        )
    note = f"the split 1k-A: all videos but the {len(held)} of {path.name}"
    return Records(each(paths[0], videos, make), max(0, len(videos) - len(held)), (note, *notes))


def _number(video: str) -> int:
    """Return the number of a video by its name, -1 if it bears none."""
    found = re.fullmatch(r"video(\d{1,6})", video)
    return int(found[1]) if found else -1


def _captions(trees: list[Any]) -> dict[str, list[Any]]:
    captions: dict[str, list[Any]] = defaultdict(list)
    for tree in trees:
        for sentence in tree["sentences"]:
            if isinstance(sentence, dict):
                captions[str(sentence.get("video_id"))].append(sentence.get("caption"))
    return captions


def _record(root: Path, entry: dict[str, Any], captions: list[Any]) -> Record:
    video = str(entry["video_id"])
    file = next(_places(root, video), root / _FOLDERS[0] / f"{video}.mp4")
    fields = {"video_id": video} | ({"category": entry["category"]} if "category" in entry else {})
    return Record(key_of(video), (("", str(file)),), tuple(captions), fields)


def _places(root: Path, video: str) -> Iterator[Path]:
    """Yield where a video lies; people sort them by the official split or put all into one folder."""
    yield from (place for folder in _FOLDERS if (place := root / folder / f"{video}.mp4").is_file())
