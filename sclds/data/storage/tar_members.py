"""Which members of a tar make up which sample; names are only read, nothing is ever extracted.

A sample is the regular files of a tar that share a key, wherever they lie in it: one image or video, and its captions
in `.txt` (one) or `.json` ("captions", a list, or "caption"). The key is the name up to the first dot of its last part,
or up to the last one (`key_ends`), without `./`. Of two members with one role the first counts. What is not used is
tallied: links, sparse and hidden files (`._a.jpg`), second ones, other extensions.
"""

import tarfile
from collections.abc import Iterator
from typing import Literal

import numpy as np

from sclds.data.storage.archive import Archive
from sclds.data.storage.files import as_text
from sclds.data.storage.index_file import ABSENT, Columns, columns_of_keys
from sclds.data.storage.left_out import Tally

Kind = Literal["image", "video"]
KeyEnds = Literal["first_dot", "last_dot"]
EXTENSIONS: dict[Kind, frozenset[str]] = {
    "image": frozenset({"jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "dib", "tif", "tiff"}),
    "video": frozenset(
        {"webm", "mp4", "mkv", "avi", "mov", "m4v", "mpg", "mpeg", "ts", "flv", "ogv", "wmv", "3gp", "gif"}
    ),
}
VQA_MEMBER, NLVR2_MEMBER, VE_MEMBER = "vqa.json", "nlvr2.json", "ve.json"
"""Extensions of members that hold questions and statements: no captions, so that nobody takes them for some."""
NOT_CAPTIONS = {
    VQA_MEMBER: "questions about images (VQAv2)",
    NLVR2_MEMBER: "statements about pairs of images (NLVR2)",
    VE_MEMBER: "statements about images (SNLI-VE)",
}
CHECKSUMS = "crc32"
"""Key in such a member: the CRC-32 of each image beside it."""
ROLES = MEDIA, TXT, JSON = range(3)
"""Roles of members."""
_OTHER_TYPES = {tarfile.SYMTYPE: "symbolic link", tarfile.LNKTYPE: "hard link"}
_DOTS = "file whose name has several dots"
_SHORT = 5
"""Letters of an extension that is told."""
_NO_END = "shard that ends without the mark of a tar's end, perhaps cut short"


class OtherTaskError(Exception):
    """A member is of a downstream task, as its extension, the only argument, shows."""


def members(tar: Archive, kind: Kind, key_ends: KeyEnds, left_out: Tally) -> Iterator[tuple[str, int, tarfile.TarInfo]]:
    """Yield key, role and header of every member that a sample can use, in file order; tally the others.

    Args:
        tar: The tar.
        kind: What a sample shows.
        key_ends: Where in a name the key ends.
        left_out: Is told what is not used, folders apart.

    Raises:
        OtherTaskError: A member is of a downstream task.
        tarfile.TarError: The tar is damaged.
    """
    for info in tar:
        if info.isdir():
            continue
        folder, slash, name = _plain(info.name).rpartition("/")
        if not info.isreg() or info.issparse():
            left_out.add("sparse file" if info.issparse() else _OTHER_TYPES.get(info.type, "special file"), info.name)
            continue
        if name.startswith("."):
            left_out.add("hidden file", info.name)
            continue
        for suffix in NOT_CAPTIONS:
            if name.lower().endswith(f".{suffix}"):
                raise OtherTaskError(suffix)
        stem, extension = _split(name, key_ends)
        role = _role(extension, kind)
        if role is None:
            left_out.add(*_unread(extension, kind, info.name))
        else:
            yield folder + slash + stem, role, info
    if tar.end_mark is None:
        left_out.add(_NO_END, as_text(str(tar.name)).rpartition("/")[2])


def _plain(name: str) -> str:
    """Return a name without `./` and doubled slashes, which tar's writers put in and others leave out."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return "/" * name.startswith("/") + "/".join(parts)


def _split(name: str, key_ends: KeyEnds) -> tuple[str, str]:
    """Return what a file's name gives of the key, and its extension in lower case."""
    at = name.find(".") if key_ends == "first_dot" else name.rfind(".")
    return (name, "") if at < 0 else (name[:at], name[at + 1 :].lower())


def _role(extension: str, kind: Kind) -> int | None:
    if extension in EXTENSIONS[kind]:
        return MEDIA
    return {"txt": TXT, "json": JSON}.get(extension)


def _unread(extension: str, kind: Kind, name: str) -> tuple[str, str, str]:
    """Return why a file is not used for its extension, its name, and what has it used."""
    last = extension.rpartition(".")[2]
    if _role(last, kind) is not None:
        return _DOTS, name, "if each is of a sample of its own, set key_ends: last_dot on the data set's row"
    known = 0 < len(last) <= _SHORT and last.isalnum()
    return f".{last} file" if known else "file of another extension", name, ""


class SampleTable:
    """Collects members to samples, in the order in which samples begin.

    Args:
        kind: What a sample shows.
        key_ends: Where in a name the key ends.
    """

    def __init__(self, kind: Kind, key_ends: KeyEnds) -> None:
        self._kind, self._key_ends = kind, key_ends
        self._rows: dict[str, int] = {}
        self._offset: list[list[int]] = []
        self._size: list[list[int]] = []
        self.left_out = Tally()
        """What is not used."""

    def __len__(self) -> int:
        return len(self._rows)

    def fill(self, tar: Archive) -> Iterator[tuple[int, int, tarfile.TarInfo]]:
        """Note the members of a tar; yield row, role and header of each that is used; errors are those of `members`."""
        for key, role, info in members(tar, self._kind, self._key_ends, self.left_out):
            row = self._row(key)
            if info.size >= ABSENT:
                self.left_out.add("file of 4 GiB or more", info.name)
            elif self._size[row][role] != ABSENT:
                what = (self._kind, ".txt", ".json")[role]
                self.left_out.add(f"second {what} of a key", info.name)
            else:
                self._offset[row][role], self._size[row][role] = info.offset_data, info.size
                yield row, role, info

    def keys(self) -> list[str]:
        """Return the key of each row."""
        return list(self._rows)

    def has_media(self) -> bool:
        """Return whether any sample has an image or video."""
        return any(size[MEDIA] != ABSENT for size in self._size)

    def columns(self) -> Columns:
        """Return keys and places as columns of the index."""
        offset, size = np.array(self._offset, "<i8").reshape(-1, 3), np.array(self._size, "<u4").reshape(-1, 3)
        return {"offset": offset, "size": size, **columns_of_keys(self.keys())}

    def _row(self, key: str) -> int:
        """Return the row of a sample, a new one for a new key."""
        if key not in self._rows:
            self._rows[key] = len(self._rows)
            self._offset.append([0, 0, 0])
            self._size.append([ABSENT, ABSENT, ABSENT])
        return self._rows[key]
