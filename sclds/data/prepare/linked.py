"""SBU and CC3M: captions listed beside URLs, and images that the user downloaded with some tool.

Owners distribute only the list. Images are found by what download tools name them after: the row of the list counted
from 0 or 1, `ROW_CRC32`, a hash of the URL, the URL's own file name (SBU), or by img2dataset's JSON beside them.
"""

import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from hashlib import md5, sha1, sha256
from pathlib import Path, PurePosixPath
from typing import Any

from sclds.config.errors import DataError
from sclds.data.prepare.records import (
    Dropped,
    Record,
    Records,
    each,
    key_of,
    line_count,
    read_json,
    read_text,
    table_rows,
)
from sclds.data.storage.shards import EXTENSIONS

CC3M_FILES = {
    "train": ("Train_GCC-training.tsv", "training"),
    "val": ("Validation_GCC-1.1.0-Validation.tsv", "validation"),
}
SBU_LISTS = ("sbu-captions-all.json", "SBU_captioned_photo_dataset_urls.txt", "annot.json")
_SBU_CAPTIONS = "SBU_captioned_photo_dataset_captions.txt"
Row = tuple[str, str]
"""Caption and URL."""


def read_cc3m(root: Path, split: str) -> Records:
    """Read the TSV (caption, URL); images lie anywhere below training or validation."""
    name, folder = CC3M_FILES[split]
    if _is_img2dataset(root / folder):
        return _img2dataset(root / folder)
    path = root / name
    rows = (tuple(row[:2]) if len(row) > 1 else ("", "") for row in table_rows(path, "\t", quoting=False))
    count = line_count(path)
    return Records(_matched(path, rows, root / folder, count, named_by_url=False), count)


def read_sbu(root: Path, split: str) -> Records:
    """Read any of the lists that are in use; images lie anywhere below images.

    They are the owners' JSON (image_urls, captions), the older pair of text files, or a JSON of [file, caption] pairs.
    """
    folder = root / "images"
    if _is_img2dataset(folder):
        return _img2dataset(folder)
    path = next(root / name for name in SBU_LISTS if (root / name).is_file())
    if path.name == "annot.json":
        return _mapped(path, folder)
    if path.suffix == ".json":
        tree = read_json(path, "SBU's 'image_urls' and 'captions'", "image_urls", "captions")
        urls, captions = tree["image_urls"], tree["captions"]
    else:
        urls, captions = (read_text(p).splitlines() for p in (path, root / _SBU_CAPTIONS))
    if len(urls) != len(captions):
        raise DataError(f"{path} lists {len(urls)} URLs, but there are {len(captions)} captions: download both again")
    return Records(_matched(path, zip(captions, urls, strict=True), folder, len(urls), named_by_url=True), len(urls))


def _matched(
    path: Path, rows: Iterable[Any], folder: Path, count: int, named_by_url: bool
) -> Iterator[Record | Dropped]:
    """Yield a record for each row of the list, with the image whose name fits.

    Args:
        path: The list, for messages.
        rows: Caption and URL of each row.
        folder: Where the images lie, at any depth.
        count: Rows.
        named_by_url: Whether a file may bear the URL's own file name, which only some sites keep unique.
    """
    found = _images(folder)
    first = _first_number(found, folder, count)

    def make(numbered: tuple[int, Row]) -> Record | Dropped:
        row, (caption, url) = numbered
        key = f"{row:09d}"
        if not url:
            return Dropped(key, str(path), "its row has no URL")
        stem = next((name for name in _names(row, first, url, named_by_url) if name in found), None)
        if stem is None:
            return Dropped(key, url, "its image was not downloaded")
        return Record(key, (("", found[stem]),), (caption,), {"url": url})

    return each(path, enumerate(rows), make)


def _names(row: int, first: int, url: str, named_by_url: bool) -> Iterator[str]:
    """Yield the stems under which a row's image may lie."""
    content = url.encode("utf-8", "surrogateescape")
    yield f"{row}_{zlib.crc32(content)}"
    yield from (hashed(content).hexdigest() for hashed in (md5, sha1, sha256))
    if named_by_url:
        yield PurePosixPath(url).stem
    yield str(row + first)


def _images(folder: Path) -> dict[str, str]:
    """Return stem → path of every image below a folder; numbers without leading zeros.

    Raises:
        DataError: Two images have one stem, so it is not certain whose they are.
    """
    endings = {f".{ending}" for ending in EXTENSIONS["image"]} | {""}
    found: dict[str, str] = {}
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            stem, ending = os.path.splitext(name)
            stem = str(int(stem)) if stem.isascii() and stem.isdigit() and len(stem) < 10 else stem
            if ending.lower() not in endings:
                continue
            if stem in found:
                raise DataError(f"{found[stem]} and {place}/{name} have one name: remove one, or keep one per row")
            found[stem] = os.path.join(place, name)
    return found


def _first_number(found: dict[str, str], folder: Path, count: int) -> int:
    """Return whether images named by numbers count rows from 0 or from 1.

    Raises:
        DataError: That cannot be told: a wrong guess would give every image its neighbour's caption.
    """
    numbered = [int(stem) for stem in found if stem.isdigit() and len(stem) < 10]
    if not numbered or "0" in found:
        if numbered and max(numbered) >= count:
            raise DataError(f"{folder} holds an image numbered {max(numbered)}, but the list has {count} rows")
        return 0
    if str(count) in found:
        return 1
    raise DataError(
        f"{folder} holds images named by number, but neither 0 nor {count}, so it cannot be told whether rows are "
        f"counted from 0 or 1: put an empty file named 0.jpg (from 0) or {count}.jpg (from 1) there"
    )


def _mapped(path: Path, folder: Path) -> Records:
    """Read a JSON that maps file names to captions: [[file, caption], …] or {file: caption or captions}."""
    text = read_text(path)
    try:
        tree = json.loads(text)
    except ValueError as fault:
        raise DataError(f"{path} is not JSON ({fault}): expected pairs of file name and caption") from fault
    if not isinstance(tree, list | dict):
        raise DataError(f"{path} is neither a list nor an object: expected pairs of file name and caption")
    pairs = list(tree.items()) if isinstance(tree, dict) else tree
    found = {os.path.basename(file): file for file in _images(folder).values()}

    def make(pair: Any) -> Record | Dropped:
        name, captions = pair
        key = key_of(PurePosixPath(name).stem)
        file = found.get(PurePosixPath(name).name)
        if file is None:
            return Dropped(key, name, "its image was not downloaded")
        return Record(key, (("", file),), tuple([captions] if isinstance(captions, str) else captions), {})

    return Records(each(path, pairs, make), len(pairs))


def _is_img2dataset(folder: Path) -> bool:
    """Say whether img2dataset wrote the folder: numbered folders, each with statistics beside it.

    Raises:
        DataError: It wrote shards, which need no preparing.
    """
    if not any(folder.glob("*_stats.json")):
        return False
    if any(folder.glob("*.tar")):
        raise DataError(
            f"{folder} holds img2dataset's .tar shards, which are read as they are: name it in data.train, or run "
            f"`sclds prepare index` on it"
        )
    return True


def _img2dataset(folder: Path) -> Records:
    """Read `files` output of img2dataset: a JSON beside every image; those that failed have statistics only."""

    def sidecars() -> Iterator[Path]:
        for place in sorted(p for p in folder.iterdir() if re.fullmatch(r"\d+", p.name) and p.is_dir()):
            yield from sorted(place.glob("*.json"))

    def make(sidecar: Path) -> Record | Dropped:
        entry = json.loads(read_text(sidecar))
        images = [sidecar.with_suffix(f".{e}") for e in sorted(EXTENSIONS["image"])]
        file = next((p for p in images if p.exists()), None)
        if file is None:
            return Dropped(sidecar.stem, str(entry.get("url")), "its image was not downloaded")
        return Record(sidecar.stem, (("", str(file)),), (entry["caption"],), {"url": entry.get("url", "")})

    return Records(each(folder, sidecars(), make))
