"""Which members of a tar make up which sample; names are only read, nothing is ever extracted.

A sample is the regular files of a tar that share a name up to the first dot of its last part, wherever they lie in the
tar: one image or video, and its captions in `.txt` (one) or `.json` ("captions", a list, or "caption"). Of two members
with one role the first counts. Links, folders, sparse and hidden files (`._a.jpg`) are passed over.
"""

import tarfile
from collections.abc import Iterator
from typing import IO, Literal, Self

import numpy as np

from sclds.data.storage.index_file import ABSENT, Columns, columns_of_keys

Kind = Literal["image", "video"]
EXTENSIONS: dict[Kind, frozenset[str]] = {
    "image": frozenset({"jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "dib", "tif", "tiff"}),
    "video": frozenset(
        {"webm", "mp4", "mkv", "avi", "mov", "m4v", "mpg", "mpeg", "ts", "flv", "ogv", "wmv", "3gp", "gif"}
    ),
}
VQA_MEMBER, NLVR2_MEMBER = "vqa.json", "nlvr2.json"
"""Extensions of members that hold questions and statements: no captions, so that nobody takes them for some."""
NOT_CAPTIONS = {
    VQA_MEMBER: "questions about images (VQAv2)",
    NLVR2_MEMBER: "statements about pairs of images (NLVR2)",
}
MEDIA, TXT, JSON = range(3)
"""Roles of members."""


class _Header(tarfile.TarInfo):
    """A header that must make sense: tarfile takes a damaged one for the end, and all samples behind it were lost."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        """Read the next header."""
        try:
            info = super().fromtarfile(tarfile_)
        except (tarfile.EOFHeaderError, tarfile.EmptyHeaderError):  # type: ignore[attr-defined]  # the true ends
            raise
        except (tarfile.HeaderError, ValueError, OverflowError, RecursionError) as fault:
            raise tarfile.ReadError(
                f"the header before byte {tarfile_.offset + tarfile.BLOCKSIZE} is damaged"
            ) from fault
        if info.size < 0:  # tarfile would go back by as much, and never end
            raise tarfile.ReadError(f"the header at byte {info.offset} gives a negative size")
        return info


def open_tar(place: str) -> tarfile.TarFile:
    """Open a tar whose headers are visited one by one.

    Raises:
        OSError: It cannot be opened.
        tarfile.TarError: It is no tar; reading on raises it where a header is damaged.
    """
    return tarfile.open(place, "r:", tarinfo=_Header)


def stream_tar(stream: IO[bytes]) -> tarfile.TarFile:
    """Open a tar that is read once from its beginning to its end; faults are those of `open_tar`."""
    return tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header)


def members(tar: tarfile.TarFile, kind: Kind) -> Iterator[tuple[str, str, int | None, tarfile.TarInfo]]:
    """Yield key, extension, role (or None) and header of every member that belongs to a sample, in file order."""
    for info in tar:
        if not info.isreg() or info.issparse():
            continue
        folder, slash, name = info.name.rpartition("/")
        stem, _, extension = name.partition(".")
        if stem:
            extension = extension.lower()
            yield folder + slash + stem, extension, _role(extension, kind), info


def _role(extension: str, kind: Kind) -> int | None:
    if extension in EXTENSIONS[kind]:
        return MEDIA
    return {"txt": TXT, "json": JSON}.get(extension)


class SampleTable:
    """Collects members to samples, in the order in which samples begin."""

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}
        self._offset: list[list[int]] = []
        self._size: list[list[int]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, key: str) -> int:
        """Return the row of a sample, a new one for a new key."""
        if key not in self._rows:
            self._rows[key] = len(self._rows)
            self._offset.append([0, 0, 0])
            self._size.append([ABSENT, ABSENT, ABSENT])
        return self._rows[key]

    def add(self, row: int, role: int, info: tarfile.TarInfo) -> bool:
        """Note a member; return False if the sample has one of that role, or it is too large to be noted (4 GiB)."""
        if self._size[row][role] != ABSENT or info.size >= ABSENT:
            return False
        self._offset[row][role], self._size[row][role] = info.offset_data, info.size
        return True

    def has_media(self) -> bool:
        """Return whether any sample has an image or video."""
        return any(size[MEDIA] != ABSENT for size in self._size)

    def columns(self) -> Columns:
        """Return keys and places as columns of the index."""
        offset, size = np.array(self._offset, "<i8").reshape(-1, 3), np.array(self._size, "<u4").reshape(-1, 3)
        return {"offset": offset, "size": size, **columns_of_keys(list(self._rows))}
