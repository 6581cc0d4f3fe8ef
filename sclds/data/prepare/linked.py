"""SBU, CC3M and CC12M: captions listed beside URLs, and images that the user downloaded with some tool.

Owners distribute only the list. Images are found by what download tools name them after (`matching`), or come with
their captions beside them (`sidecars`).
"""

from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from sclds.config.errors import DataError
from sclds.data.prepare.address_tables import Row, address_table, is_url, names_columns
from sclds.data.prepare.lists import Numbered, Pairs, first_file, lines, parsed, read_text
from sclds.data.prepare.matching import Images, Names, Numbering
from sclds.data.prepare.records import Dropped, Record, Records, each, key_of
from sclds.data.prepare.sidecars import has_sidecars, read_sidecars

CC3M_FILES = {
    "train": ("Train_GCC-training.tsv", "training"),
    "val": ("Validation_GCC-1.1.0-Validation.tsv", "validation"),
}
CC12M_FILES = {"train": ("cc12m.tsv", "images")}
SBU_LISTS = ("sbu-captions-all.json", "SBU_captioned_photo_dataset_urls.txt", "annot.json")
OPTIONS = ("first_image", "folder_rows")
"""What a user may have to say about images that are named by number."""
_SBU_CAPTIONS = "SBU_captioned_photo_dataset_captions.txt"
_FILE_KEYS, _CAPTION_KEYS = ("image", "file", "filename", "image_url", "url"), ("caption", "captions", "text")
_BLANK = (
    "line {} of the list is blank, so it cannot be told whether that line was counted: remove it if not, or write a - "
    "there if so"
)
_OPENS = (
    "line {} of the list opens a quotation mark and does not close it, so it cannot be told whether the rows behind it "
    "were counted, or taken for a part of this one: remove that mark if they were counted, as by tools that take it "
    "for text, or else the rows up to the next such mark"
)
_SBU_FORM = "SBU's 'image_urls' and 'captions'"
_MAPPED_FORM = "pairs of file name and caption"


_Rows = Callable[[], Iterator[Numbered]]
"""Gives the rows from the beginning; None as the value of one that is blank."""


def read_cc3m(root: Path, split: str, first_image: int | None = None, folder_rows: int | None = None) -> Records:
    """Read the TSV (caption, URL), with or without a header line; images lie anywhere below training or validation."""
    return _read_table(root, CC3M_FILES[split], False, first_image, folder_rows)


def read_cc12m(root: Path, split: str, first_image: int | None = None, folder_rows: int | None = None) -> Records:
    """Read the TSV (URL, caption), with or without a header line; images lie anywhere below images."""
    return _read_table(root, CC12M_FILES[split], True, first_image, folder_rows)


def _read_table(
    root: Path, names: tuple[str, str], url_first: bool, first_image: int | None, folder_rows: int | None
) -> Records:
    path, folder = root / names[0], root / names[1]
    if has_sidecars(folder, "image"):
        _no_numbers("captions lie beside the images", first_image, folder_rows)
        return read_sidecars(folder, "image")
    images = Images(folder, folder_rows)
    return _matched(path, lambda: address_table(path, url_first), images, first_image, named_by_url=False)


def _no_numbers(why: str, first_image: int | None, folder_rows: int | None) -> None:
    """Refuse what a user said about numbers where there are none."""
    if first_image is not None or folder_rows is not None:
        raise DataError(f"--{'folder-rows' if first_image is None else 'first-image'} has no effect: {why}")


def read_sbu(root: Path, split: str, first_image: int | None = None, folder_rows: int | None = None) -> Records:
    """Read any of the lists that are in use; images lie anywhere below images.

    They are the owners' JSON (image_urls, captions), the older pair of text files, or a JSON of [file, caption] pairs.
    """
    folder = root / "images"
    if has_sidecars(folder, "image"):
        _no_numbers("captions lie beside the images", first_image, folder_rows)
        return read_sidecars(folder, "image")
    path = first_file(root, SBU_LISTS)
    if path.name == "annot.json":
        _no_numbers("annot.json names the images", first_image, folder_rows)
        return _mapped(path, folder)
    rows = _listed_json(path) if path.suffix == ".json" else _two_files(path, root / _SBU_CAPTIONS)
    return _matched(path, rows, Images(folder, folder_rows), first_image, named_by_url=True)


def _row(caption: Any, url: Any) -> Row:
    return Row(caption, url.strip() if is_url(url) else "")


def _two_files(urls: Path, captions: Path) -> _Rows:
    """Return the rows of SBU's older lists, one value a line each.

    Raises:
        DataError: They are of unequal length.
    """
    if not captions.is_file():
        raise DataError(f"{urls} lies without {captions.name}, which holds its captions: download both")
    one, two = list(lines(urls)), list(lines(captions))
    for longer in (one, two):
        while len(one) != len(two) and len(longer) == max(len(one), len(two)) and not longer[-1][1].strip():
            longer.pop()
    _same_length(urls, len(one), len(two))
    rows = [Numbered(n, _row(caption, url)) for (n, url), (_, caption) in zip(one, two, strict=True)]
    return lambda: iter(rows)


def _listed_json(path: Path) -> _Rows:
    """Return the rows of SBU's JSON: two lists, or as some tools rewrite it, a list of pairs or of objects."""
    tree = parsed(read_text(path), path, _SBU_FORM, pairs=True)
    fields = dict(tree) if isinstance(tree, Pairs) else {}
    urls, captions = fields.get("image_urls"), fields.get("captions")
    if isinstance(tree, Pairs) and isinstance(urls, list) and isinstance(captions, list):
        _same_length(path, len(urls), len(captions))
        pairs: list[tuple[Any, Any]] = list(zip(urls, captions, strict=True))
    elif isinstance(tree, list) and not isinstance(tree, Pairs):
        pairs = [_pair(entry) or (None, None) for entry in tree]
    else:
        lacking = [name for name in ("image_urls", "captions") if not isinstance(fields.get(name), list)]
        raise DataError(f"{path} has no list {' and no '.join(map(repr, lacking))}: expected {_SBU_FORM}")
    rows = [Numbered(0, _row(caption, url)) for url, caption in pairs]
    return lambda: iter(rows)


def _same_length(path: Path, urls: int, captions: int) -> None:
    if urls != captions:
        raise DataError(f"{path} lists {urls} URLs, but there are {captions} captions: download both again")


def _pair(entry: Any) -> tuple[Any, Any] | None:
    """Return file or address, and captions, of an entry that is a pair or an object with such fields."""
    if isinstance(entry, Pairs | dict):
        fields = dict(entry)
        name = next((fields[key] for key in _FILE_KEYS if key in fields), None)
        return name, next((fields[key] for key in _CAPTION_KEYS if key in fields), None)
    return (entry[0], entry[1]) if isinstance(entry, list | tuple) and len(entry) == 2 else None


def _matched(path: Path, rows: _Rows, images: Images, first_image: int | None, named_by_url: bool) -> Records:
    """Return a record for each row of the list, with the image whose name fits.

    Args:
        path: The list, for messages.
        rows: Its rows.
        images: What was downloaded.
        first_image: Number of the first row's image, if the user said.
        named_by_url: Whether a file may bear the URL's own file name, which only some sites keep unique.
    """
    if not named_by_url:
        images.refuse_other_names()
    numbering = _survey(rows)
    notes = (images.settle(numbering, first_image), "the list has a header line" if numbering.header else "")

    def make(numbered: tuple[int, Row]) -> Record | Dropped:
        position, row = numbered
        key = f"{position - numbering.header:09d}"
        if not row.url:
            return Dropped(key, str(path), "its row has no URL")
        file = images.of_row(position, row.url, named_by_url)
        if file is None:
            return Dropped(key, row.url, "its image was not downloaded")
        return Record(key, (("", file),), (row.caption,), {"url": row.url})

    def counted() -> Iterator[Numbered]:
        there = (row for row in rows() if row.value is not None)
        for position, (line, row) in enumerate(there):
            if position or not numbering.header:
                yield Numbered(line, (position, row))

    return Records(each(path, counted(), make), numbering.rows, tuple(filter(None, notes)))


def _survey(rows: _Rows) -> Numbering:
    """Return how a list's rows can be counted; a first row without an address before one that has it is a header."""
    addressed, waiting, doubt = bytearray(), "", ""
    for line, row in rows():
        if row is None:
            waiting = waiting or _BLANK.format(line)
            continue
        doubt = doubt or waiting  # at a last row nothing could be counted otherwise
        addressed.append(bool(row.url))
        if row.opens:
            waiting = waiting or _OPENS.format(line)
    header = False
    if len(addressed) > 1 and not addressed[0] and addressed[1]:
        line, first = next(row for row in rows() if row.value is not None)
        header = line > 0 and names_columns(first.caption)
    return Numbering(addressed, header, doubt)


def _mapped(path: Path, folder: Path) -> Records:
    """Read a JSON that maps file names to captions: pairs, objects, or one object {file: caption or captions}."""
    tree = parsed(read_text(path), path, _MAPPED_FORM, pairs=True)
    if not isinstance(tree, list):
        raise DataError(f"{path} is neither a list nor an object: expected {_MAPPED_FORM}")
    pairs = (_pair(entry) for entry in tree)
    names = Names(folder, (pair[0] for pair in pairs if pair and isinstance(pair[0], str)))

    def make(entry: Any) -> Record | Dropped:
        pair = _pair(entry)
        if pair is None or not isinstance(pair[0], str):
            raise ValueError(f"neither a pair nor an object with one of {', '.join(_FILE_KEYS)}")
        name, captions = pair
        if isinstance(captions, Pairs):  # {file: {"caption": …}}
            captions = next((value for key, value in captions if key in _CAPTION_KEYS), None)
        key = key_of(str(PurePosixPath(name.lstrip("/")).with_suffix("")))
        file = names.of(name)
        if file is None:
            return Dropped(key, name, "its image was not downloaded")
        return Record(key, (("", file),), tuple(captions) if isinstance(captions, list) else (captions,), {})

    return Records(each(path, list(tree), make), len(tree))
