"""Folders that img2dataset and video2dataset write as `files`: each image or video with its caption beside it.

Numbered folders hold KEY.jpg or KEY.mp4, and KEY.txt, KEY.json or both; nothing need be counted.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sclds.config.errors import DataError
from sclds.data.captions import clean_captions
from sclds.data.prepare.lists import read_text
from sclds.data.prepare.records import Dropped, Record, Records, each, key_of
from sclds.data.storage.shards import EXTENSIONS, Kind

_TEXTS = {"txt", "json"}


@dataclass(frozen=True)
class _Sample:
    """Files of one key."""

    folder: Path
    stem: str
    endings: tuple[str, ...]


def has_sidecars(folder: Path, kind: Kind) -> bool:
    """Say whether a folder was written by img2dataset or video2dataset.

    Raises:
        DataError: It holds their shards, which need no preparing.
    """
    if any(folder.glob("*_stats.json")):
        if any(folder.glob("*.tar")):
            raise DataError(
                f"{folder} holds img2dataset's or video2dataset's .tar shards, which are read as they are: name it in "
                f"data.train, or run `sclds prepare index` on it"
            )
        return True
    media = EXTENSIONS[kind]
    found = ({*sample.endings} for place in _numbered(folder) for sample in _samples(place))
    return any(endings & media and endings & _TEXTS for endings in found)


def read_sidecars(folder: Path, kind: Kind) -> Records:
    """Read every sample of the folder; what the tool could not download has no image or video."""
    what = "image" if kind == "image" else "video"

    def make(sample: _Sample) -> Record | Dropped:
        base = sample.folder / sample.stem
        whole = sample.stem.startswith(sample.folder.name)  # as of img2dataset; other names repeat in every folder
        key = key_of(sample.stem if whole else f"{sample.folder.name}-{sample.stem}")
        ending = next((e for e in sample.endings if e.lower() in EXTENSIONS[kind]), None)
        captions, url = _told(base, sample.endings)
        if ending is None:
            return Dropped(key, url or str(base), f"its {what} was not downloaded")
        if not _TEXTS & {*sample.endings}:
            return Dropped(key, f"{base}.{ending}", "it has no .txt or .json beside it")
        return Record(key, (("", f"{base}.{ending}"),), captions, {"url": url} if url else {})

    samples = (sample for place in _numbered(folder) for sample in _samples(place))
    return Records(each(folder, samples, make), notes=(f"captions are those beside the {what}s, not the list's",))


def _told(base: Path, endings: tuple[str, ...]) -> tuple[tuple[object, ...], str]:
    """Return what the text beside an image or video says, .txt first, and its address where that is known."""
    captions: tuple[object, ...] = ()
    entry: object = {}
    if "json" in endings:
        try:
            entry = json.loads(_text_or_none(Path(f"{base}.json")) or "")
        except (ValueError, RecursionError):
            entry = {"caption": None}
    fields = entry if isinstance(entry, dict) else {"caption": None}
    if "txt" in endings:
        captions = (_text_or_none(Path(f"{base}.txt")),)
    if not clean_captions(captions)[0] and "json" in endings:
        captions = (fields.get("caption"),)
    url = fields.get("url")
    return captions, url if isinstance(url, str) else ""


def _text_or_none(path: Path) -> str | None:
    try:
        return read_text(path)
    except DataError:  # one file of millions: only its sample is lost
        return None


def _numbered(folder: Path) -> list[Path]:
    places = folder.iterdir() if folder.is_dir() else ()
    return sorted(place for place in places if place.name.isdigit() and place.is_dir())


def _samples(place: Path) -> Iterator[_Sample]:
    """Yield the keys of a folder in order."""
    endings: dict[str, list[str]] = {}
    for name in sorted(os.listdir(place)):
        stem, _, ending = name.rpartition(".")
        if stem:
            endings.setdefault(stem, []).append(ending)
    for stem, found in endings.items():
        yield _Sample(place, stem, tuple(found))
