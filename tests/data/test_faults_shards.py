"""The tables of docs/faults.md on shards and indexes are true; each row is made, and gives what stands beside it."""

import bz2
import gzip
import io
import json
import lzma
import os
import re
import tarfile
import zipfile

import numpy as np
import pytest

from sclds.config import DatasetConfig
from sclds.config.errors import DataError
from sclds.data.prepare.index import prepare_index
from sclds.data.storage.shards import left_out_sentences, open_index

from .storage.test_index_trust import as_version_1, changed
from .synthetic import image_members, picture, write_tar
from .test_faults import page_rows, results_of


def sound(names, folder):
    return write_tar(folder / "sound.part", image_members(list(names))).read_bytes()


def with_links(folder):
    path = write_tar(folder / "linked.part", image_members(["a"]))
    with tarfile.open(path, "a") as tar:
        for name, kind in (("b.png", tarfile.LNKTYPE), ("c.png", tarfile.SYMTYPE), ("d.png", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a.png"
            tar.addfile(info)
    return path.read_bytes()


def zipped(folder):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.png", picture(1))
    return buffer.getvalue()


def long_names(folder, form):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, content in image_members(["k" * 90 + "/" + "k" * 90]).items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def damaged(folder):
    content = bytearray(sound("ab", folder))
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        at = tar.getmembers()[2].offset
    content[at : at + 512] = b"\xff" * 512
    return bytes(content)


def cut_between(folder):
    content = sound("ab", folder)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return content[: tar.getmembers()[2].offset]


SHARDS = {
    "two shards joined by `cat`, zeros between members": [
        lambda folder: sound("ab", folder) + sound("cd", folder),
        lambda folder: sound("ab", folder) + bytes(5120) + sound("ab", folder),
    ],
    "bytes behind the end that are no tar": [lambda folder: sound("ab", folder) + b"rubbish" * 100],
    "last member cut": [lambda folder: sound("ab", folder)[:2000]],
    "cut where a member ends": [cut_between],
    "header damaged": [damaged],
    "gzip, bzip2, xz, zstd, lz4 or an older compression by the name of a tar": [
        *(lambda folder, pack=pack: pack(sound("a", folder)) for pack in (gzip.compress, bz2.compress, lzma.compress)),
        *(lambda folder, magic=magic: magic + bytes(99) for magic in (b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")),
    ],
    "zip, 7z or rar by the name of a tar": [
        zipped,
        lambda folder: b"7z\xbc\xaf\x27\x1c" + bytes(999),
        lambda folder: b"Rar!\x1a\x07\0" + bytes(999),
    ],
    "web page or Git LFS pointer by the name of a tar": [
        lambda folder: b"<html>" + bytes(999),
        lambda folder: b"version https://git-lfs.github.com/spec/v1\noid",
    ],
    "empty": [lambda folder: b""],
    "no sample of its kind": [
        lambda folder: write_tar(folder / "x.part", {"a.mp4": b"", "b.cls": b""}).read_bytes(),
        lambda folder: write_tar(folder / "x.part", {}).read_bytes(),
    ],
    "hard and symbolic links, sparse and special members": [with_links],
    "long names of GNU, PAX and USTAR": [
        lambda folder, form=form: long_names(folder, form)
        for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT)
    ],
}


def words_of(result):
    return re.findall(r"`([^`]+)`", result)


def held_against(page, folder):
    """Open and use a data set; hold what becomes of it against what the page says."""
    row = DatasetConfig(name="set", shards=str(folder))
    kind, words = page.partition(":")[0], words_of(page)
    if kind == "error at the start":
        with pytest.raises(DataError) as caught:
            open_index([row])
        assert any(word in str(caught.value) for word in words), (page, str(caught.value))
        return
    outcomes = [one for several in results_of([row], folder.parent).values() for one in several]
    if kind == "set aside":
        bad = [one for one in outcomes if one != "used"]
        assert len(bad) == 1
        assert bad[0].startswith(words[0])
        return
    assert outcomes
    assert set(outcomes) == {"used"}
    said = "".join(left_out_sentences(open_index([row])))
    if "told" in page:
        assert words[0] in said
    if page.startswith("left out"):
        assert all(word in said for word in ("hard link (b.png)", "symbolic link (c.png)", "special file (d.png)"))


@pytest.mark.parametrize("name", SHARDS)
def test_every_fault_of_a_shard_has_the_result_that_the_page_gives(name, tmp_path):
    assert list(page_rows("shard")) == list(SHARDS)
    for number, make in enumerate(SHARDS[name]):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "0.tar").write_bytes(make(tmp_path))
        held_against(page_rows("shard")[name], folder)


def same_time(path, change):
    before = path.stat()
    path.write_bytes(change(path.read_bytes()))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def big_endian(folder):
    path = folder / "samples.index"
    path.write_bytes(path.read_bytes().replace(b'"<i8"', b'">i8"', 1))


def other_rule(folder):
    prepare_index(str(folder), "image", 1, folder / ".parts", key_ends="last_dot")


def one_bit(folder):
    def flip(content):
        at = content.index(b"thing number 1")
        return content[:at] + b"T" + content[at + 1 :]

    same_time(folder / "0.tar", flip)


INDEXES = {
    "a place outside its shard, or between two blocks of the tar": [
        lambda folder: changed(folder, "offset", lambda values: values + 1),
        lambda folder: changed(folder, "offset", lambda values: values << 20),
        lambda folder: changed(folder, "size", lambda values: values + 99999),
    ],
    "other byte order, type or layout of a column": [big_endian],
    "places or checksums shifted by a row": [
        lambda folder: changed(folder, "offset", lambda values: np.roll(values, 1, 0)),
        lambda folder: changed(folder, "size", lambda values: np.roll(values, 1, 0)),
        lambda folder: changed(folder, "crc32", lambda values: np.roll(values, 1, 0)),
    ],
    "shard with other bytes of the same size and time": [
        lambda folder: same_time(folder / "0.tar", lambda content: content.replace(b"small", b"large"))
    ],
    "one member with other bytes": [one_bit],
    "made with another `key_ends`": [other_rule],
    "version 1": [lambda folder: as_version_1(folder / "samples.index")],
}


@pytest.mark.parametrize("name", INDEXES)
def test_every_fault_of_an_index_has_the_result_that_the_page_gives(name, tmp_path):
    assert list(page_rows("index")) == list(INDEXES)
    for number, change in enumerate(INDEXES[name]):
        folder = tmp_path / str(number)
        write_tar(folder / "0.tar", image_members([f"{k}" for k in range(9)]))
        prepare_index(str(folder), "image", 1, folder / ".index-parts")
        change(folder)
        held_against(page_rows("index")[name], folder)


def test_what_is_left_out_stands_in_the_header_of_the_index(tmp_path):
    """Names that no locale can show survive in it."""
    write_tar(tmp_path / "0.tar", image_members(["a"]) | {"caf\udce9.gif": b"", "猫.gif": b""})
    prepare_index(str(tmp_path), "image", 1, tmp_path / ".index-parts")
    content = (tmp_path / "samples.index").read_bytes()
    header = json.loads(content[16 : 16 + int.from_bytes(content[8:16], "little")])
    (left_out,) = header["shards"][0]["left_out"]
    assert left_out == {"reason": ".gif file", "count": 2, "names": ["caf\udce9.gif", "猫.gif"], "remedy": ""}
