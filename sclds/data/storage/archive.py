"""Tars whose headers are visited one by one, so that either every member is seen or an error says where it ends.

A tar that is not whole is no reason for `tarfile` to complain: a damaged header, or the end mark of the first of two
tars that `cat` joined, is the end for it. Here the one is an error and the other is read past.
"""

import codecs
import tarfile
from typing import IO, Self

AGAIN = "fetch it again or remove it"
"""What to do about a tar that is damaged."""
_UNPACK = "decompress it: `{} -dc FILE > FILE.part && mv FILE.part FILE`"
_REPACK = "unpack it, and make a tar of its files: `tar -cf FILE -C FOLDER .`"
_CONTENTS = (
    (b"\x1f\x8b", "is gzip-compressed", _UNPACK.format("gzip")),
    (b"BZh", "is bzip2-compressed", _UNPACK.format("bzip2")),
    (b"\xfd7zXZ\0", "is xz-compressed", _UNPACK.format("xz")),
    (b"\x28\xb5\x2f\xfd", "is zstd-compressed", _UNPACK.format("zstd")),
    *((bytes([kind]) + b"\x2a\x4d\x18", "is zstd-compressed", _UNPACK.format("zstd")) for kind in range(0x50, 0x60)),
    (b"\x04\x22\x4d\x18", "is lz4-compressed", _UNPACK.format("lz4")),
    (b"\x1f\x9d", "is compressed by `compress`", _UNPACK.format("gzip")),
    (b"\x5d\0\0", "is lzma-compressed", _UNPACK.format("xz --format=lzma")),
    (b"LZIP", "is lzip-compressed", _UNPACK.format("lzip")),
    (b"\x89LZO", "is lzop-compressed", _UNPACK.format("lzop")),
    (b"PK\x03\x04", "is a zip file", _REPACK),
    (b"PK\x05\x06", "is a zip file", _REPACK),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z file", _REPACK),
    (b"Rar!\x1a\x07", "is a rar file", _REPACK),
    (b"070701", "is a cpio archive", _REPACK),
    (b"070707", "is a cpio archive", _REPACK),
    (b"PAR1", "is a Parquet file", "write its rows as the files of a tar"),
    (b"<!doctype html", "is a web page", AGAIN),
    (b"<html", "is a web page", AGAIN),
    (b"<?xml", "is an XML page, such as the error of a storage", AGAIN),
    (b"version https://git-lfs", "is a pointer of Git LFS", "get its content: `git lfs pull`"),
)
"""How files that go by the name of a tar begin, what they are, and what to do."""


class ArchiveError(tarfile.ReadError):
    """A tar that cannot be read.

    Args:
        reason: What is wrong, as a sentence about "it".
        remedy: What to do; FILE stands for the tar.
    """

    def __init__(self, reason: str, remedy: str = AGAIN):
        super().__init__(reason)
        self.remedy = remedy


class _ContentError(Exception):
    """A block is the beginning of something else than a member."""

    def __init__(self, what: str, remedy: str):
        super().__init__(what)
        self.what, self.remedy = what, remedy


class Archive(tarfile.TarFile):
    """A tar; to be opened with `open_tar` or `stream_tar`."""

    end_mark: int | None = None
    """Byte at which the last member's tar ends, once that has been reached; None if it goes on, or is not marked."""


class _Header(tarfile.TarInfo):
    """A header that must make sense."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Read a header out of a block."""
        try:
            return super().frombuf(buf, encoding, errors)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError):  # type: ignore[attr-defined]
            begin = bytes(buf).removeprefix(codecs.BOM_UTF8)
            begin = begin.lstrip().lower() if begin[:1] in b" \r\n\t<" else begin
            for magic, what, remedy in _CONTENTS:
                if begin.startswith(magic):
                    raise _ContentError(what, remedy) from None
            raise

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        """Read the next header."""
        assert isinstance(tarfile_, Archive)
        begin, end_mark = tarfile_.offset, tarfile_.end_mark
        try:
            info = super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # a block of zeros
            tarfile_.end_mark = begin if end_mark is None else end_mark
            raise
        except tarfile.EmptyHeaderError:  # type: ignore[attr-defined]  # the file's end
            raise
        except _ContentError as fault:
            where = f"what follows byte {begin} of it" if begin else "it"
            raise ArchiveError(f"{where} {fault.what}", fault.remedy if begin == 0 else _behind(begin)) from fault
        except (tarfile.HeaderError, ValueError, OverflowError, RecursionError) as fault:
            if end_mark is not None:
                raise ArchiveError(
                    f"its end is marked at byte {end_mark}, and what follows byte {begin} is no member of a tar",
                    _behind(begin),
                ) from fault
            raise ArchiveError(f"the header before byte {begin + tarfile.BLOCKSIZE} is damaged") from fault
        if info.size < 0:  # tarfile would go back by as much, and never end
            raise ArchiveError(f"the header at byte {info.offset} gives a negative size")
        tarfile_.end_mark = None
        return info


def _behind(begin: int) -> str:
    return f"{AGAIN}, or if that is of no use cut it off: `truncate -s {begin} FILE`"


def open_tar(place: str) -> Archive:
    """Open a tar.

    Raises:
        OSError: It cannot be opened.
        tarfile.TarError: It is no tar; reading on raises it where a header is damaged.
    """
    return Archive.open(place, "r:", tarinfo=_Header, ignore_zeros=True, encoding="utf-8", errors="surrogateescape")


def stream_tar(stream: IO[bytes], place: str) -> Archive:
    """Open a tar that is read once from its beginning to its end; faults are those of `open_tar`."""
    return Archive.open(
        place, "r|", stream, tarinfo=_Header, ignore_zeros=True, encoding="utf-8", errors="surrogateescape"
    )
