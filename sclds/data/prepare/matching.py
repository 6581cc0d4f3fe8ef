"""Which downloaded image belongs to which row of a list of addresses.

Names that hold a checksum of the address settle it by themselves. A name that is only a number says where the row
stands, and tools count differently: from 0 or 1, with a header line or without, inside each folder or through all of
them. Of these ways only those are possible that give every numbered image a row with an address; if that leaves more
than one, the user is asked, since the wrong one would give every image its neighbor's caption.
"""

import os
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import md5, sha1, sha256
from pathlib import Path, PurePosixPath

from sclds.config.errors import DataError
from sclds.data.storage.shards import EXTENSIONS

_HASHES = {32: md5, 40: sha1, 64: sha256}
_ROW_AND_CRC = re.compile(r"(\d{1,9})_(\d{1,10})")
_DRIFT = 2
"""How far the row in a `ROW_CRC32` name may be from ours, for lists whose header was counted."""


@dataclass(frozen=True)
class Numbering:
    """How a list's rows are counted, header and all; only rows that have an address can have an image.

    Attributes:
        addressed: (rows,) whether each row has an address, the header line, which has none, included.
        header: Whether the first row is a header line.
        doubt: A clause about the first line of which tools think differently, whether it or what follows is a row, and
            what to do; "" if there is none.
    """

    addressed: bytearray
    header: bool
    doubt: str

    @property
    def rows(self) -> int:
        """Rows without the header line."""
        return len(self.addressed) - self.header

    @property
    def first(self) -> int:
        """The first row that has an address, counted from 0 with the header line."""
        return max(0, self.addressed.find(1))


class Images:
    """The images below a folder, by name.

    Args:
        folder: They lie anywhere below it.
        folder_rows: How many rows of the list each numbered folder stands for; 0 if names count through all folders;
            None if nobody said.

    Raises:
        DataError: Two images have one number, or numbers do not say which row they mean.
    """

    def __init__(self, folder: Path, folder_rows: int | None = None):
        self.folder = folder
        self.paths: list[str] = []
        self._stems: dict[str, int] = {}
        self._twins: dict[str, int] = {}
        self._checksums: dict[int, list[tuple[int, int]]] = {}
        self._numbers: dict[int, int] = {}
        self._shift = 0
        self._in_folders = bool(folder_rows)
        local: list[tuple[str, str, int]] = []  # folder's name, stem, image
        for image, path in enumerate(_image_files(folder)):
            self.paths.append(path)
            above, name = os.path.split(path)
            stem = os.path.splitext(name)[0]
            if stem in self._stems:
                self._twins[stem] = image
            else:
                self._stems[stem] = image
            if found := _ROW_AND_CRC.fullmatch(stem):
                self._checksums.setdefault(int(found[2]), []).append((int(found[1]), image))
            elif _is_number(stem):
                local.append(("" if above == str(folder) else os.path.basename(above), stem, image))
        if not self.paths:
            raise DataError(f"{folder} holds no image: download the images of the list into it")
        self._lengths = {len(stem) for stem in self._stems} & _HASHES.keys()
        self._count(local, folder_rows)

    def _count(self, local: list[tuple[str, str, int]], folder_rows: int | None) -> None:
        """Note the number of every image that is named by one."""
        inside = [name for name, _, _ in local if _is_number(name)]
        if folder_rows is None and any(map(int, inside)):
            raise DataError(
                f"{self.folder} holds images that are named by number inside numbered folders, such as "
                f"{self._relative(local[-1][2])}, so it cannot be told which rows they are: give --folder-rows with "
                f"the number of rows that each folder stands for (img2dataset's --number_sample_per_shard, 10000 if "
                f"that was not given), or 0 if the names count through all folders"
            )
        if folder_rows is not None and not inside:
            raise DataError(
                f"--folder-rows has no effect: {self.folder} holds no images named by number in such folders"
            )
        whole = all(len(stem) > len(name) and stem.startswith(name) for name, stem, _ in local if _is_number(name))
        for name, stem, image in local:
            number = int(stem)
            if folder_rows and _is_number(name):
                number = int(stem[len(name) :] if whole else stem)  # img2dataset repeats the folder's name
                if number >= folder_rows:
                    raise DataError(f"{self._relative(image)} lies behind the {folder_rows} rows of --folder-rows")
                number += int(name) * folder_rows
            if number in self._numbers:
                raise DataError(_one_name(self.paths[self._numbers[number]], self.paths[image]))
            self._numbers[number] = image

    def refuse_other_names(self) -> None:
        """Refuse images of which no name can be that of a row.

        Raises:
            DataError: With one of the names.
        """
        if not (self._numbers or self._checksums or self._lengths):
            raise DataError(
                f"{self.folder} holds {len(self.paths)} images, such as {self._relative(0)}, of which no name says "
                f"to which row of the list it belongs: expected the row's number, ROW_CRC32, or a hash of the address "
                f"(MD5, SHA-1, SHA-256)"
            )

    def settle(self, numbering: Numbering, first_image: int | None) -> str:
        """Decide which number is which row; return that as a clause, "" where no image is named by number.

        Args:
            numbering: The list's rows.
            first_image: Number of the image of the first row that has an address; None if nobody said.

        Raises:
            DataError: That cannot be told, or no way of counting fits.
        """
        if not self._numbers:
            if first_image is not None:
                raise DataError(f"--first-image has no effect: {self.folder} holds no image named by number alone")
            return ""
        if numbering.doubt:
            raise DataError(f"{self.folder} holds images named by number, but {numbering.doubt}")
        addressed = numbering.addressed
        unsure = bool(addressed) and not addressed[0]  # whether the first line was counted
        shifts: Sequence[int]
        shifts = range(-1 if unsure else 0, 2) if first_image is None else [first_image - numbering.first]
        if self._in_folders and first_image is None:  # folders of so many rows begin at 0, behind a header line
            shifts = [-numbering.header]
        fitting = [s for s in shifts if all(0 <= n - s < len(addressed) and addressed[n - s] for n in self._numbers)]
        if len(fitting) != 1:
            raise DataError(self._unsettled(numbering, fitting, max(shifts), first_image))
        self._shift = fitting[0]
        return f"images are named by row: {self._shift + numbering.first} is the first row with an address"

    def _unsettled(self, numbering: Numbering, fitting: list[int], most: int, first_image: int | None) -> str:
        """Return why numbers do not say which rows they are: no way of counting fits, or several do."""
        last = max(self._numbers)
        if fitting:
            choices = " or ".join(str(shift + numbering.first) for shift in fitting)
            header = ", and whether the header line was counted" if numbering.header else ""
            return (
                f"{self.folder} holds images named by number, of which the last is {last}, for a list of "
                f"{numbering.rows} rows, so it cannot be told whether rows are counted from 0 or 1{header}: give "
                f"--first-image {choices}, the number that the image of the list's first row with an address has or "
                f"would have"
            )
        if last - most >= len(numbering.addressed):
            return f"{self.folder} holds an image numbered {last}, but the list has {numbering.rows} rows"
        how = "however rows are counted" if first_image is None else f"with --first-image {first_image}"
        return (
            f"{self.folder} holds images named by number that no row with an address can have, {how}: the list is not "
            f"the one that was downloaded, or they are not numbered by row"
        )

    def of_row(self, position: int, url: str, named_by_url: bool) -> str | None:
        """Return the path of a row's image, or None.

        Args:
            position: The row counted from 0, the header line included.
            url: Its address.
            named_by_url: Whether a file may bear the address' own file name, which only some sites keep unique.

        Raises:
            DataError: Two images bear the name.
        """
        content = url.encode("utf-8", "surrogateescape")
        near = [pair for pair in self._checksums.get(zlib.crc32(content), ()) if abs(pair[0] - position) <= _DRIFT]
        if near:
            return self.paths[min(near, key=lambda pair: abs(pair[0] - position))[1]]
        for stem in self._names(content, url, named_by_url):
            if stem in self._stems:
                return self._only(stem)
        number = self._numbers.get(position + self._shift)
        return None if number is None else self.paths[number]

    def _names(self, content: bytes, url: str, named_by_url: bool) -> Iterator[str]:
        for length in sorted(self._lengths):
            digest = _HASHES[length](content).hexdigest()
            yield from (digest, digest.upper())
        if named_by_url:
            yield PurePosixPath(url).stem

    def _only(self, stem: str) -> str:
        path = self.paths[self._stems[stem]]
        if stem in self._twins:
            raise DataError(_one_name(path, self.paths[self._twins[stem]]))
        return path

    def _relative(self, image: int) -> str:
        return os.path.relpath(self.paths[image], self.folder)


class Names:
    """The images below a folder by the ends of their paths, for lists that name files.

    Lists name folders that are not there, and images lie in folders that lists do not name; where both name one, it is
    the same, or else the images' names have to tell them apart.

    Args:
        folder: They lie anywhere below it.
        listed: All names of the list.
    """

    def __init__(self, folder: Path, listed: Iterable[str]):
        self._named: dict[str, list[str]] = {}
        for path in _image_files(folder):
            self._named.setdefault(os.path.basename(path), []).append(os.path.relpath(path, folder))
        self._folder = folder
        asked = {_parts(name): name for name in listed}
        self._listed = Counter(parts[-1] for parts in asked if parts)
        self._claims: dict[str, str] = {}
        self._disputed: dict[str, tuple[str, str]] = {}
        for parts, name in asked.items():
            for path in self._fitting(parts):
                other = self._claims.setdefault(path, name)
                if other != name:
                    self._disputed[path] = (other, name)

    def of(self, name: str) -> str | None:
        """Return the path that ends in a name, folders in it as far as need be; None if there is no such image.

        Raises:
            DataError: Several do, or one does for several names, and the folders do not tell them apart.
        """
        found = self._fitting(_parts(name))
        if len(found) > 1:
            one, other = (str(self._folder / path) for path in found[:2])
            raise DataError(f"{_one_name(one, other)}, or keep in the list's names ({name}) the folders")
        if found and found[0] in self._disputed:
            one, other = self._disputed[found[0]]
            raise DataError(
                f"{self._folder / found[0]} could be the image of {one} and of {other}: keep images in the folders "
                f"that the list names"
            )
        return str(self._folder / found[0]) if found else None

    def _fitting(self, asked: tuple[str, ...]) -> list[str]:
        """Return the paths that agree with a name in most folders, of those that contradict it in none."""
        paths = self._named.get(asked[-1], []) if asked else []
        deepest: dict[int, list[str]] = {}
        for path in paths:
            parts = PurePosixPath(path).parts
            depth = min(len(parts), len(asked))
            if parts[-depth:] == asked[-depth:]:
                deepest.setdefault(depth, []).append(path)
        if deepest:
            return deepest[max(deepest)]
        return paths if len(paths) == 1 == self._listed[asked[-1]] else []


def _parts(name: str) -> tuple[str, ...]:
    return tuple(part for part in PurePosixPath(name).parts if part != "/")


def _one_name(one: str, other: str) -> str:
    return f"{one} and {other} have one name: remove one, or keep one per row"


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit() and len(name.lstrip("0")) < 10 and len(name) not in _HASHES


def _image_files(folder: Path) -> Iterator[str]:
    """Yield the path of every image below a folder in one order; some tools give files no ending."""
    endings = {f".{ending}" for ending in EXTENSIONS["image"]} | {""}
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if os.path.splitext(name)[1].lower() in endings and not name.startswith("."):
                yield os.path.join(place, name)
